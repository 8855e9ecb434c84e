/* Cases of tests/metal_emulator/tests/test_api.py: `cases NAME` runs one in a process of its own. */
#import <Metal/Metal.h>

#include "control.h"

#define CASE(name)                                                                       \
    static void name(void);                                                              \
    __attribute__((constructor)) static void add_##name(void) { case_add(#name, name); } \
    static void name(void)

void case_add(const char *name, void (*run)(void));

#define CHECK(...) case_check((__VA_ARGS__), __FILE__, __LINE__, #__VA_ARGS__)
void case_check(BOOL holds, const char *file, int line, const char *condition);

/* The statement raises an exception whose reason contains the text. */
#define CHECK_RAISES(statement, text)                                                                               \
    do {                                                                                                            \
        NSString *case_reason = @"nothing raised";                                                                  \
        @try {                                                                                                      \
            statement;                                                                                              \
        } @catch (NSException * case_exception) {                                                                   \
            case_reason = [case_exception reason];                                                                  \
        }                                                                                                           \
        case_check(                                                                                                 \
            [case_reason rangeOfString:(text)].location != NSNotFound, __FILE__, __LINE__,                          \
            [[NSString stringWithFormat:@"%s raises '%@', got '%@'", #statement, (text), case_reason] UTF8String]); \
    } while (0)

/* `error` is of this domain and code, and its description contains the text. */
#define CHECK_ERROR(error, expected_domain, expected_code, text)                                                       \
    case_check([[(error) domain] isEqualToString:(expected_domain)] && [(error) code] == (NSInteger)(expected_code) && \
                   [[(error) localizedDescription] rangeOfString:(text)].location != NSNotFound,                       \
               __FILE__, __LINE__, [[NSString stringWithFormat:@"%s is %@", #error, (error)] UTF8String])

/* Bytes that the kernel of this process lets nobody read. */
BOOL is_unreadable(const void *address);

/* A device with everything that dispatching takes: `add` makes results[i] = first[i] + second[i], `step` makes
   values[i] = 2 * values[i] + amount, over 64 floats. */
enum { COUNT = 64, BYTES = COUNT * sizeof(float) };

typedef struct {
    id<MTLDevice> device;
    id<MTLCommandQueue> queue;
    id<MTLLibrary> library;
    id<MTLComputePipelineState> add, step;
    id<MTLBuffer> first, second, results;
} rig;

rig rig_make(void);
void rig_free(rig *r);
float *floats(id<MTLBuffer> buffer);
id<MTLComputePipelineState> make_pipeline(id<MTLLibrary> library, NSString *name);

void encode_add(const rig *r, id<MTLComputeCommandEncoder> encoder);
void encode_step(const rig *r, id<MTLComputeCommandEncoder> encoder, id<MTLBuffer> values, int amount);

/* Commits and waits. */
void finish(id<MTLCommandBuffer> commandBuffer);
