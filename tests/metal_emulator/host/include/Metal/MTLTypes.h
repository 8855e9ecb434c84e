#pragma once

#import <Metal/MTLDefines.h>

typedef struct {
    NSUInteger x, y, z;
} MTLOrigin;

typedef struct {
    NSUInteger width, height, depth;
} MTLSize;

typedef struct {
    MTLOrigin origin;
    MTLSize size;
} MTLRegion;

typedef uint64_t MTLGPUAddress;

static inline MTLOrigin MTLOriginMake(NSUInteger x, NSUInteger y, NSUInteger z) { return (MTLOrigin){x, y, z}; }

static inline MTLSize MTLSizeMake(NSUInteger width, NSUInteger height, NSUInteger depth) {
    return (MTLSize){width, height, depth};
}

static inline MTLRegion MTLRegionMake1D(NSUInteger x, NSUInteger width) {
    return (MTLRegion){{x, 0, 0}, {width, 1, 1}};
}

static inline MTLRegion MTLRegionMake2D(NSUInteger x, NSUInteger y, NSUInteger width, NSUInteger height) {
    return (MTLRegion){{x, y, 0}, {width, height, 1}};
}

static inline MTLRegion MTLRegionMake3D(NSUInteger x, NSUInteger y, NSUInteger z, NSUInteger width, NSUInteger height,
                                        NSUInteger depth) {
    return (MTLRegion){{x, y, z}, {width, height, depth}};
}
