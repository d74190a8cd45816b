// The driver is not called from kernels.
