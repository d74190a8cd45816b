#!/usr/bin/env bash
# Runs rustc for build_cuda.sh: `rustc_cuda.sh RUSTC ARGUMENTS`, as cargo calls a wrapper.
#
# candle asks its CUDA bindings (cudarc) to link CUDA's libraries, so that a program would not
# start without them. The bindings open them at run time instead if this setting is given too,
# which cargo has no way to do for one dependency.
name=
for arg in "$@"; do
    [ "$last" = --crate-name ] && name=$arg
    last=$arg
done
case $name in
cudarc) set -- "$@" --cfg 'feature="dynamic-loading"' ;;
fuselm | suite | stages | gpu_check)
    set -- "$@" --cfg 'feature="dynamic-loading"'
    # First of all folders, in their order.
    IFS=:
    search=()
    for dir in $FUSELM_CUDA_LINK; do search+=(-L "native=$dir"); done
    set -- "$1" "${search[@]}" "${@:2}"
    ;;
esac
exec "$@"
