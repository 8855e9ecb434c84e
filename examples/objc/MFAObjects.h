/*
 * mfa.h for Objective-C: objects that give up their handles when they are released, Metal buffers or NSMutableData as
 * tensors, without a copy, and the library's messages as NSErrors (domain MFAErrorDomain, the code is the status).
 *
 * Without ARC, and with variables in the interfaces, as the emulated device's runtime knows no other way.
 */
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>
#include <mfa.h>

extern NSString *const MFAErrorDomain;

@class MFAAttention, MFAContext;

@interface MFATensor : NSObject {
  @package
    mfa_tensor_t tensor;
    id memory;
    MFAContext *context;
}
@end

/* Its calls may come from several threads at once. */
@interface MFAContext : NSObject {
    mfa_context_t handle;
}
/* `backend` is MFA_BACKEND_..., `threads` 0 for as many as there are processors. A library older than mfa.h is an error. */
+ (instancetype)contextWithBackend:(int32_t)backend threads:(int32_t)threads error:(NSError **)error;

/* Packed tensors, (batch, heads, rows, columns), that keep their memory and the context. The library refuses a shape that
   goes beyond the memory when a call is made. */
- (MFATensor *)tensorWithBuffer:(id<MTLBuffer>)buffer
                      precision:(mfa_precision_t)precision
                          shape:(const int64_t[4])shape
                          error:(NSError **)error;
- (MFATensor *)tensorWithData:(NSMutableData *)data
                    precision:(mfa_precision_t)precision
                        shape:(const int64_t[4])shape
                        error:(NSError **)error;

/* Runs a call and waits for it. */
- (BOOL)forward:(MFAAttention *)attention error:(NSError **)error;
/* Puts a call into a command buffer, which the caller commits. */
- (BOOL)encodeForward:(MFAAttention *)attention into:(id<MTLCommandBuffer>)commands error:(NSError **)error;
/* Gradients of an attention with a logsumexp, whose forward call comes before. */
- (BOOL)encodeBackward:(MFAAttention *)attention
                  dout:(MFATensor *)dout
                dquery:(MFATensor *)dquery
                  dkey:(MFATensor *)dkey
                dvalue:(MFATensor *)dvalue
                  into:(id<MTLCommandBuffer>)commands
                 error:(NSError **)error;
@end

@interface MFAAttention : NSObject {
    MFATensor *query, *key, *value, *out, *logsumexp, *keyScales, *valueScales, *blockMask;
    int64_t blockRows, blockKeys, windowLeft, windowRight;
    BOOL causal;
}
@property(retain) MFATensor *query, *key, *value, *out, *logsumexp;
@property(retain) MFATensor *keyScales, *valueScales; /* of codes, one for each head */
@property(retain) MFATensor *blockMask;               /* which blocks of blockRows by blockKeys count */
@property int64_t blockRows, blockKeys;
@property BOOL causal;
@property int64_t windowLeft, windowRight; /* -1: unbounded */
@end
