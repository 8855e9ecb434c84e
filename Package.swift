// swift-tools-version:5.10
import PackageDescription

let apple: [Platform] = [.macOS, .iOS, .tvOS, .visionOS]

let package = Package(
    name: "FlashAttention",
    platforms: [.macOS(.v14), .iOS(.v17), .tvOS(.v17), .visionOS(.v1)],
    products: [.library(name: "FlashAttention", targets: ["FlashAttention"])],
    targets: [
        // The C library. Metal's sources and the stub for other systems choose themselves by the preprocessor.
        .target(
            name: "CMFA",
            path: ".",
            exclude: [
                "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md",
                "_mfa_torch_autoload.py", "benchmarks", "docs", "examples", "flags.mk", "metal", "mfa",
                "packaging", "pyproject.toml", "setup.py", "swift/FlashAttention", "swift/FlashAttentionTests", "tests",
            ],
            sources: ["src", "swift/CMFA"],
            publicHeadersPath: "include",
            cSettings: [.headerSearchPath("src"), .headerSearchPath("metal")],
            linkerSettings: [
                .linkedFramework("CoreGraphics", .when(platforms: apple)),
                .linkedFramework("Foundation", .when(platforms: apple)),
                .linkedFramework("Metal", .when(platforms: apple)),
                .linkedLibrary("m", .when(platforms: [.linux, .android])),
            ]
        ),
        .target(name: "FlashAttention", dependencies: ["CMFA"], path: "swift/FlashAttention"),
        .testTarget(name: "FlashAttentionTests", dependencies: ["FlashAttention"], path: "swift/FlashAttentionTests"),
    ],
    cLanguageStandard: .gnu11
)
