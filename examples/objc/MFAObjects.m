#import "MFAObjects.h"

NSString *const MFAErrorDomain = @"MFAErrorDomain";

static BOOL fail(int code, NSString *message, NSError **error) {
    if (error != NULL)
        *error = [NSError errorWithDomain:MFAErrorDomain
                                     code:code
                                 userInfo:[NSDictionary dictionaryWithObject:message forKey:NSLocalizedDescriptionKey]];
    return NO;
}

static BOOL check(mfa_status_t status, NSError **error) {
    return status == MFA_SUCCESS || fail(status, [NSString stringWithUTF8String:mfa_last_error_message(NULL)], error);
}

static BOOL check_library(NSError **error) {
    int major, minor, patch;
    mfa_get_version(&major, &minor, &patch);
    const int found = (major * 1000 + minor) * 1000 + patch;
    if (found >= (MFA_VERSION_MAJOR * 1000 + MFA_VERSION_MINOR) * 1000 + MFA_VERSION_PATCH)
        return YES;
    return fail(
        MFA_ERROR_UNSUPPORTED,
        [NSString stringWithFormat:@"libmfa is version %d.%d.%d, older than the mfa.h of %d.%d.%d that this was "
                                   @"compiled with",
                                   major, minor, patch, MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH],
        error);
}

/* ------------------------------------------------------------------ tensors */

@implementation MFATensor
- (void)dealloc {
    mfa_destroy_buffer(tensor.buffer);
    [memory release];
    [context release];
    [super dealloc];
}
@end

static const mfa_tensor_t *described(MFATensor *tensor) { return tensor ? &tensor->tensor : NULL; }

/* ------------------------------------------------------------------ calls */

@implementation MFAAttention
@synthesize query, key, value, out, logsumexp, keyScales, valueScales, blockMask, blockRows, blockKeys, causal,
    windowLeft, windowRight;

- (instancetype)init {
    if ((self = [super init]))
        windowLeft = windowRight = -1;
    return self;
}

- (void)dealloc {
    [query release], [key release], [value release], [out release], [logsumexp release];
    [keyScales release], [valueScales release], [blockMask release];
    [super dealloc];
}
@end

/* A descriptor and the structs that it points to. */
typedef struct {
    mfa_attention_desc_t desc;
    mfa_blocks_t blocks;
    mfa_quantization_t key, value;
} described_t;

static const mfa_attention_desc_t *describe(MFAAttention *attention, described_t *into) {
    *into = (described_t){MFA_ATTENTION_DESC_INIT, MFA_BLOCKS_INIT, MFA_QUANTIZATION_INIT, MFA_QUANTIZATION_INIT};
    mfa_attention_desc_t *desc = &into->desc;
    desc->query = described(attention.query), desc->key = described(attention.key);
    desc->value = described(attention.value), desc->out = described(attention.out);
    desc->logsumexp = described(attention.logsumexp);
    desc->flags = attention.causal ? MFA_ATTENTION_CAUSAL : 0;
    desc->window_left = attention.windowLeft, desc->window_right = attention.windowRight;
    desc->alignment = MFA_ALIGN_TOP_LEFT;
    into->blocks.block_rows = attention.blockRows, into->blocks.block_keys = attention.blockKeys;
    into->blocks.block_mask = described(attention.blockMask);
    desc->blocks = attention.blockMask ? &into->blocks : NULL;
    into->key.scales = described(attention.keyScales), into->value.scales = described(attention.valueScales);
    desc->key_quantization = attention.keyScales ? &into->key : NULL;
    desc->value_quantization = attention.valueScales ? &into->value : NULL;
    return desc;
}

@implementation MFAContext

+ (instancetype)contextWithBackend:(int32_t)backend threads:(int32_t)threads error:(NSError **)error {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = backend;
    options.num_threads = threads;
    MFAContext *made = [[[self alloc] init] autorelease];
    const BOOL ok = check_library(error) && check(mfa_create_context_with_options(&options, &made->handle), error);
    return ok ? made : nil;
}

- (void)dealloc {
    mfa_destroy_context(handle);
    [super dealloc];
}

- (MFATensor *)tensorOf:(id)memory
                 status:(mfa_status_t)status
                 buffer:(mfa_buffer_t)buffer
              precision:(mfa_precision_t)precision
                  shape:(const int64_t[4])shape
                  error:(NSError **)error {
    if (!check(status, error))
        return nil;
    MFATensor *made = [[[MFATensor alloc] init] autorelease];
    made->tensor = (mfa_tensor_t)MFA_TENSOR_INIT;
    made->tensor.buffer = buffer;
    made->tensor.precision = precision;
    made->memory = [memory retain];
    made->context = [self retain];
    int64_t stride = 1;
    for (int axis = 3; axis >= 0; stride *= shape[axis--]) {
        made->tensor.shape[axis] = shape[axis];
        made->tensor.stride[axis] = stride;
    }
    return made;
}

- (MFATensor *)tensorWithBuffer:(id<MTLBuffer>)memory
                      precision:(mfa_precision_t)precision
                          shape:(const int64_t[4])shape
                          error:(NSError **)error {
    mfa_buffer_t buffer = NULL;
    const mfa_status_t status = mfa_buffer_from_mtl_buffer(handle, memory, &buffer);
    return [self tensorOf:memory status:status buffer:buffer precision:precision shape:shape error:error];
}

- (MFATensor *)tensorWithData:(NSMutableData *)memory
                    precision:(mfa_precision_t)precision
                        shape:(const int64_t[4])shape
                        error:(NSError **)error {
    mfa_buffer_t buffer = NULL;
    const mfa_status_t status = mfa_buffer_from_ptr(handle, [memory mutableBytes], [memory length], &buffer);
    return [self tensorOf:memory status:status buffer:buffer precision:precision shape:shape error:error];
}

- (BOOL)forward:(MFAAttention *)attention error:(NSError **)error {
    described_t into;
    return check(mfa_attention_forward_desc(handle, describe(attention, &into)), error);
}

- (BOOL)encodeForward:(MFAAttention *)attention into:(id<MTLCommandBuffer>)commands error:(NSError **)error {
    described_t into;
    return check(mfa_attention_forward_encode(handle, describe(attention, &into), commands), error);
}

- (BOOL)encodeBackward:(MFAAttention *)attention
                  dout:(MFATensor *)dout
                dquery:(MFATensor *)dquery
                  dkey:(MFATensor *)dkey
                dvalue:(MFATensor *)dvalue
                  into:(id<MTLCommandBuffer>)commands
                 error:(NSError **)error {
    described_t into;
    mfa_attention_backward_desc_t desc = MFA_ATTENTION_BACKWARD_DESC_INIT;
    desc.forward = describe(attention, &into), desc.dout = described(dout);
    desc.dquery = described(dquery), desc.dkey = described(dkey), desc.dvalue = described(dvalue);
    return check(mfa_attention_backward_encode(handle, &desc, commands), error);
}

@end
