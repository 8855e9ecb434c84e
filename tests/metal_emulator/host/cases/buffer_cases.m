#import "case.h"

#include <string.h>
#include <sys/mman.h>

enum { PAGE = 16384 };

CASE(buffer_starts_zeroed_and_ends_at_a_guard_page) {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    id<MTLBuffer> buffer = [device newBufferWithLength:5 * PAGE + 512 options:MTLResourceStorageModeShared];
    const char *bytes = [buffer contents];
    NSUInteger set = 0;
    for (NSUInteger i = 0; i < [buffer length]; ++i)
        set += bytes[i] != 0;
    CHECK(set == 0);
    CHECK([buffer length] == 5 * PAGE + 512);
    CHECK((uintptr_t)bytes % 256 == 0);
    CHECK(!is_unreadable(bytes + [buffer length] - 1));
    CHECK(is_unreadable(bytes + [buffer length]));
    CHECK([device currentAllocatedSize] >= [buffer length]);
    [buffer release];
    CHECK([device currentAllocatedSize] == 0);
    [device release];
}

CASE(buffer_copies_bytes) {
    const char text[] = "copied when it was made";
    char changed[sizeof text];
    memcpy(changed, text, sizeof text);
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    id<MTLBuffer> buffer = [device newBufferWithBytes:changed length:sizeof changed options:0];
    changed[0] = 'X';
    CHECK(memcmp([buffer contents], text, sizeof text) == 0);
    CHECK([buffer length] == sizeof text && [buffer gpuAddress] != 0 && [buffer device] == device);
    [buffer setLabel:@"text"];
    CHECK([[buffer label] isEqualToString:@"text"]);
    [buffer release];
    [device release];
}

CASE(buffer_modes) {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    id<MTLBuffer> private = [device newBufferWithLength:64 options:MTLResourceStorageModePrivate];
    CHECK([private contents] == NULL && [private storageMode] == MTLStorageModePrivate);
    id<MTLBuffer> shared = [device newBufferWithLength:64 options:MTLResourceCPUCacheModeWriteCombined];
    CHECK([shared contents] != NULL && [shared storageMode] == MTLStorageModeShared);
    CHECK([shared cpuCacheMode] == MTLCPUCacheModeWriteCombined);
    CHECK([shared hazardTrackingMode] == MTLHazardTrackingModeTracked);
    CHECK_RAISES([shared didModifyRange:NSMakeRange(0, 64)], @"not managed");
    id<MTLBuffer> managed = [device newBufferWithLength:64 options:MTLResourceStorageModeManaged];
    [managed didModifyRange:NSMakeRange(0, 64)];
    CHECK_RAISES([managed didModifyRange:NSMakeRange(32, 33)], @"beyond the buffer");
    [private release];
    [shared release];
    [managed release];
    [device release];
}

CASE(buffer_lengths_refused) {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    CHECK([device newBufferWithLength:0 options:0] == nil);
    CHECK([device newBufferWithLength:[device maxBufferLength] + 1 options:0] == nil);
    CHECK([device newBufferWithLength:64 options:MTLResourceStorageModeMemoryless] == nil);
    CHECK_RAISES([device newBufferWithBytes:(void *_Nonnull)NULL length:8 options:0], @"NULL");
    CHECK(emu_live_count("MTLBuffer") == 0);
    [device release];
}

CASE(no_copy_takes_whole_pages_only) {
    __block int calls = 0;
    __block void *given = NULL;
    void (^deallocator)(void *, NSUInteger) = ^(void *pointer, NSUInteger length) {
      ++calls;
      given = pointer;
      CHECK(length == 2 * PAGE);
    };
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    char *mapping = mmap(NULL, 5 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *pages = (char *)(((uintptr_t)mapping + PAGE - 1) / PAGE * PAGE);
    munmap(pages + 3 * PAGE, PAGE);
    CHECK([device newBufferWithBytesNoCopy:pages + 4096 length:PAGE options:0 deallocator:deallocator] == nil);
    CHECK([device newBufferWithBytesNoCopy:pages length:PAGE + 4096 options:0 deallocator:deallocator] == nil);
    CHECK([device newBufferWithBytesNoCopy:pages length:0 options:0 deallocator:deallocator] == nil);
    CHECK([device newBufferWithBytesNoCopy:pages length:4 * PAGE options:0 deallocator:deallocator] == nil);
    CHECK(calls == 0);

    id<MTLBuffer> buffer = [device newBufferWithBytesNoCopy:pages length:2 * PAGE options:0 deallocator:deallocator];
    id<MTLBuffer> overlapping = [device newBufferWithBytesNoCopy:pages + PAGE
                                                          length:2 * PAGE
                                                         options:0
                                                     deallocator:nil];
    CHECK([buffer contents] == pages && [buffer length] == 2 * PAGE);
    CHECK([overlapping contents] == pages + PAGE);
    CHECK([device currentAllocatedSize] == 0);
    [overlapping release];
    CHECK(calls == 0);
    [buffer release];
    CHECK(calls == 1 && given == pages);
    [device release];
    munmap(mapping, 5 * PAGE);
}
