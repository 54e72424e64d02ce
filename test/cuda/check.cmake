# cmake -DNVCC=... -DHOST=... -DSOURCE=... -DOBJECT=... "-DFLAGS=a|b" -P check.cmake
# Compiles SOURCE to OBJECT; warnings, spills and serialised wgmma are errors.
string(REPLACE "|" ";" FLAGS "${FLAGS}")
set(host)
if(HOST)
  set(host -ccbin ${HOST})
endif()
execute_process(
  COMMAND ${NVCC} ${host} -std=c++20 -O3 -Xcompiler=-fopenmp,-Wall,-Wextra -Xptxas=-v ${FLAGS} -MD -MF ${OBJECT}.d -c ${SOURCE} -o ${OBJECT}
  OUTPUT_VARIABLE text ERROR_VARIABLE text RESULT_VARIABLE status)
string(REGEX MATCHALL "[^\n]*(warning|error|C75[0-9][0-9])[^\n]*|[^\n]*[1-9][0-9]* bytes spill[^\n]*" faults "${text}")
if(NOT status EQUAL 0 OR faults)
  file(REMOVE ${OBJECT})
  message("${text}")
  message(FATAL_ERROR "moe: the CUDA build check of ${SOURCE} found: ${faults}")
endif()
