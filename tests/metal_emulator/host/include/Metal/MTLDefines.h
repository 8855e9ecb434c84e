#pragma once

#import <Foundation/Foundation.h>

#define MTL_EXTERN extern __attribute__((visibility("default")))

/* On Apple these come with Foundation. */
#ifndef NS_SWIFT_NAME
#define NS_SWIFT_NAME(name)
#endif
#ifndef API_AVAILABLE
#define API_AVAILABLE(...)
#endif
#ifndef API_UNAVAILABLE
#define API_UNAVAILABLE(...)
#endif
typedef double CFTimeInterval;
