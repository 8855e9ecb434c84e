// Float16 does not exist on every Mac, hence by hand. Both round to nearest, ties to even.

/// The bits of a number in FP16.
func halfBits(_ number: Float) -> UInt16 {
    let sign = UInt16(number.bitPattern >> 16) & 0x8000
    let magnitude = number.magnitude
    if magnitude.isNaN {
        return sign | 0x7e00
    }
    if magnitude >= 65520 {
        return sign | 0x7c00
    }
    // The last bit of the result counts 2 to the power of this; below the smallest normal number it does not shrink.
    let exponent = max(magnitude == 0 ? -14 : Int(magnitude.exponent), -14) - 10
    let quantum = Float(sign: .plus, exponent: exponent, significand: 1)
    let count = UInt16((magnitude / quantum).rounded(.toNearestOrEven))
    // Counts 1024 to 2047 are normal, and 2048 carries into the exponent by itself.
    return sign | (UInt16(exponent + 24) << 10) &+ count
}

/// The bits of a number in BF16.
func brainBits(_ number: Float) -> UInt16 {
    let bits = number.bitPattern
    if number.isNaN {
        return UInt16(truncatingIfNeeded: bits >> 16) | 0x0040
    }
    return UInt16(truncatingIfNeeded: (bits + 0x7fff + (bits >> 16 & 1)) >> 16)
}
