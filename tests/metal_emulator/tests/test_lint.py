"""What Metal's compiler refuses and clang does not is refused by lint."""

import re

import pytest
from metal_emulator.tests.toys import (
    HEADER,
    LANGUAGE,
    TOYS,
)


def kernel_using(expression, helpers=""):
    return (
        f"{HEADER}{helpers}\n"
        "kernel void k(device float *a [[buffer(0)]], uint i [[thread_position_in_grid]]) {\n"
        f"    a[i] = {expression};\n}}\n"
    )


@pytest.mark.parametrize(
    ("helpers", "expression", "message"),
    [
        ("", "(float)(double)a[i]", "double"),
        ("double f(float x) { return x; }", "f(a[i])", "double"),
        ("float f(const float *p) { return *p; }", "f(a)", r"program_source:3:1: error: 'p' points to no"),
        ("float f(float &x) { return x; }", "f(a[i])", "'x' points to no address space"),
        ("struct S { float *p; };", "a[i]", "'p' points to no address space"),
        ("float f(threadgroup const float *p) { return *p; }", "f(a)", "no matching function"),
        ("int f(int n) { return n < 2 ? 1 : n * f(n - 1); }", "f(i)", "_source:3:1: error: 'f' calls itself"),
        ("int g(int);\nint f(int n) { return g(n); }\nint g(int n) { return f(n); }", "f(i)", "calls itself"),
        ("int f(int n) { static int x = 0; return x; }", "f(i)", "'static' local variable"),
        ('int f(int n) { __asm("nop"); return n; }', "f(i)", "'__asm' is refused"),
        ("struct S { virtual int f() { return 1; } };", "a[i]", "virtual"),
        ("int f(int n) { throw n; }", "f(i)", "throw"),
        ("int f(int fragment) { return fragment; }", "f(i)", "'fragment' is refused"),
        ("int f(int n) { try { return n; } catch (...) { return 1; } }", "f(i)", "try"),
        ("int g(int n) { return n; }\nint f(int n) { int (*h)(int) = g; return h(n); }", "f(i)", "function"),
    ],
)  # fmt: skip
def test_lint_refuses(emulator, helpers, expression, message):
    assert re.search(message, emulator.lint(kernel_using(expression, helpers)))


def test_lint_refuses_two_arguments_of_one_number(emulator):
    source = (
        f"{HEADER}constant bool has_b [[function_constant(0)]];\n"
        "kernel void k(device float *a [[buffer(1)]],\n"
        "              device float *b [[buffer(0 + 1), function_constant(has_b)]]) {\n"
        "    a[0] = 1;\n}\n"
    )
    assert "'a' and 'b' of k have one number" in emulator.lint(source)


def test_lint_has_nothing_against_plain_kernels(emulator):
    helpers = """
static inline float plain(float x) { return x; }
float from_device(device const float *p) { return *p; }
float by_reference(thread const float &x) { return x; }
template <typename T> T twice(T x) {
    T parts[2] = {x, x};
    auto first = &parts[0];
    auto sum = [&](int i) { return *first + parts[i]; };
    return sum(1);
}
constant float table[2] = {1, 2};
"""
    expression = "plain(a[i]) + from_device(a + i) + twice(a[i]) + table[i & 1]"
    assert emulator.lint(kernel_using(expression, helpers)) == ""
    assert emulator.lint(TOYS) == ""
    assert emulator.lint(LANGUAGE) == ""
