// libFuzzer's entry for programs with a main function of their own (llvm.org/docs/LibFuzzer.html,
// "Using libFuzzer as a library").

#pragma once

#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

int LLVMFuzzerRunDriver(
    int *count, char *_Nullable *_Nonnull *_Nonnull arguments,
    int (*run)(const uint8_t *_Nullable data, size_t size));

#pragma clang assume_nonnull end
