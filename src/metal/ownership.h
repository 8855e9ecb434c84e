/* Who counts references: these lines, or the compiler (ARC), as in Swift packages, where nobody can turn that off. There
   an object lives as long as it stands in a variable or a member, so that letting go of it is to write nil. */
#ifndef MFA_METAL_OWNERSHIP_H
#define MFA_METAL_OWNERSHIP_H

#if __has_feature(objc_arc)
#define MFAI_RETAIN(object) (object)
#define MFAI_RELEASE(owner) ((owner) = nil)
#define MFAI_AUTORELEASE(object) (object)
#else
#define MFAI_RETAIN(object) [(object) retain]
#define MFAI_RELEASE(owner) [(owner) release]
#define MFAI_AUTORELEASE(object) [(object) autorelease]
#endif

#endif
