// Runs the threads of a block as fibres.
#include "emulator.h"

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <vector>

#include "launch.h"

Index threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t STACK = 64 << 10;

struct Fibre {
    std::unique_ptr<char[]> memory{new char[STACK]};
    void *stack = nullptr;
    bool running = false, waiting_block = false, waiting_warp = false;
};

struct Warp {
    alignas(16) unsigned char slots[32][16];
    unsigned running = 0, waiting = 0;
};

std::vector<std::unique_ptr<Fibre>> fibres;
std::vector<Warp> warps;
int block_slots[1024];
unsigned running = 0, waiting = 0, current = 0;
void *scheduler_stack = nullptr;
const std::function<void()> *body = nullptr;

// Saves the registers that a call keeps, and goes on where `to` was saved.
extern "C" void switch_stack(void **from, void *to);
asm(R"(
    .text
    .globl switch_stack
switch_stack:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");

void release_block() {
    if (running > 0 && waiting == running) {
        for (auto &fibre : fibres) fibre->waiting_block = false;
        waiting = 0;
    }
}

void release_warp(unsigned index) {
    Warp &warp = warps[index];
    if (warp.running > 0 && warp.waiting == warp.running) {
        for (unsigned t = index * 32; t < index * 32 + 32 && t < fibres.size(); t++)
            fibres[t]->waiting_warp = false;
        warp.waiting = 0;
    }
}

void yield() { switch_stack(&fibres[current]->stack, scheduler_stack); }

void entry() {
    (*body)();
    Fibre &me = *fibres[current];
    me.running = false;
    running--;
    warps[current / 32].running--;
    release_block();
    release_warp(current / 32);
    yield();
    std::abort();
}

void run_block() {
    const unsigned threads = blockDim.x;
    running = threads;
    waiting = 0;
    for (unsigned w = 0; w < warps.size(); w++) {
        warps[w].running = std::min(32u, threads - w * 32);
        warps[w].waiting = 0;
    }
    for (unsigned t = 0; t < threads; t++) {
        Fibre &fibre = *fibres[t];
        fibre.running = true;
        fibre.waiting_block = fibre.waiting_warp = false;
        // As if `entry` had been called: the stack is 8 bytes off a multiple of 16.
        void **top = (void **)(((uintptr_t)fibre.memory.get() + STACK) & ~(uintptr_t)15) - 1;
        *--top = (void *)entry;
        top -= 6;
        fibre.stack = top;
    }
    while (running > 0) {
        bool moved = false;
        for (current = 0; current < threads; current++) {
            Fibre &fibre = *fibres[current];
            if (!fibre.running || fibre.waiting_block || fibre.waiting_warp) continue;
            threadIdx = {current, 0, 0};
            switch_stack(&scheduler_stack, fibre.stack);
            moved = true;
        }
        if (!moved) {
            std::fprintf(stderr, "emulator: threads wait for each other\n");
            std::abort();
        }
    }
}

}  // namespace

void block_barrier() {
    fibres[current]->waiting_block = true;
    waiting++;
    release_block();
    while (fibres[current]->waiting_block) yield();
    threadIdx = {current, 0, 0};
}

void warp_barrier() {
    fibres[current]->waiting_warp = true;
    warps[current / 32].waiting++;
    release_warp(current / 32);
    while (fibres[current]->waiting_warp) yield();
    threadIdx = {current, 0, 0};
}

unsigned char *warp_slot(unsigned lane) { return warps[current / 32].slots[lane]; }
int *block_slot(unsigned thread) { return &block_slots[thread]; }

void run_kernel(Index grid, Index block, const std::function<void()> &kernel) {
    if (block.y != 1 || block.z != 1 || block.x > 1024)
        throw std::runtime_error("blocks have one dimension here");
    gridDim = grid;
    blockDim = block;
    body = &kernel;
    while (fibres.size() < block.x) fibres.push_back(std::make_unique<Fibre>());
    fibres.resize(block.x);
    warps.assign((block.x + 31) / 32, Warp{});
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                run_block();
            }
}

std::map<std::string, Launch> &kernels() {
    static std::map<std::string, Launch> all;
    return all;
}
