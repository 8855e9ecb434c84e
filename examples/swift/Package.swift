// swift-tools-version:5.10
import PackageDescription

// An app names a version of the repository instead: .package(url: ..., from: "0.1.0").
let mfa = Context.environment["MFA_PACKAGE"] ?? "../.."

let package = Package(
    name: "attention",
    platforms: [.macOS(.v14)],
    dependencies: [.package(name: "FlashAttention", path: mfa)],
    targets: [
        .executableTarget(
            name: "attention",
            dependencies: [.product(name: "FlashAttention", package: "FlashAttention")]
        )
    ]
)
