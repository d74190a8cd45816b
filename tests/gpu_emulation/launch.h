// Kernels by name.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "emulator.h"

// Calls a kernel for the current thread, with pointers to its arguments as a driver gets them.
typedef void (*Launch)(void **arguments);

std::map<std::string, Launch> &kernels();
void run_kernel(Index grid, Index block, const std::function<void()> &kernel);

template <typename... P, size_t... I>
void call(void (*kernel)(P...), void **arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_const_t<P> *)arguments[I]...);
}
template <typename... P> void call(void (*kernel)(P...), void **arguments) {
    call(kernel, arguments, std::index_sequence_for<P...>{});
}
#define KERNEL(NAME)                                                                               \
    static bool registered_##NAME =                                                                \
        kernels().emplace(#NAME, [](void **arguments) { call(NAME, arguments); }).second;
