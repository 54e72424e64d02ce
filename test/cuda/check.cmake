# cmake -DNVCC=... -DHOST=... -DSOURCE=... -DOBJECT=... -DSAME_CODE=... "-DFLAGS=a|b" -P check.cmake
# Compiles SOURCE to OBJECT; warnings, spills and serialised wgmma are errors. With -cubin among the flags, so are kernels whose instructions depend on
# whether nvcc may contract a product and a sum into one operation: what must be fused says madd, and what must not, product().
cmake_minimum_required(VERSION 3.25)
string(REPLACE "|" ";" FLAGS "${FLAGS}")
set(host)
if(HOST)
  set(host -ccbin ${HOST})
endif()
if("-cubin" IN_LIST FLAGS)
  set(what)
else()
  set(what -c)
endif()
function(compile output)  # further arguments: more flags
  execute_process(
    COMMAND ${NVCC} ${host} -std=c++20 -O3 -Xcompiler=-fopenmp,-Wall,-Wextra -Xptxas=-v ${FLAGS} ${ARGN} ${what} ${SOURCE} -o ${output}
    OUTPUT_VARIABLE text ERROR_VARIABLE text RESULT_VARIABLE status)
  # Registers that CUB's own kernels spill are not ours to mend.
  string(REGEX REPLACE "Function properties for _ZN3cub[^\n]*\n[^\n]*spill[^\n]*\n" "" text_of_ours "${text}")
  string(REGEX MATCHALL "[^\n]*(warning|error|C75[0-9][0-9])[^\n]*|[^\n]*[1-9][0-9]* bytes spill[^\n]*" faults "${text_of_ours}")
  if(NOT status EQUAL 0 OR faults)
    file(REMOVE ${OBJECT})
    message("${text}")
    message(FATAL_ERROR "moe: the CUDA build check of ${SOURCE} found: ${faults}")
  endif()
endfunction()
compile(${OBJECT} -MD -MF ${OBJECT}.d)
if("-cubin" IN_LIST FLAGS)
  compile(${OBJECT}.exact -fmad=false)
  execute_process(COMMAND ${SAME_CODE} ${OBJECT} ${OBJECT}.exact OUTPUT_VARIABLE text RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    file(REMOVE ${OBJECT})
    message(FATAL_ERROR "moe: the bits of kernels in ${SOURCE} are the compiler's choice. Write madd(a, b, c) where one operation is meant and product(a, b) + c where two are:\n${text}")
  endif()
endif()
