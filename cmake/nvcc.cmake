# Programs for a GPU, compiled by nvcc itself: CMake 3.25 does not know C++20 for nvcc 13, and nobody without nvcc shall need the language.
find_program(MOE_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
set(MOE_GPU_ARCHITECTURE "90a" CACHE STRING "What programs for a GPU are compiled for: the compute capability without its dot; 90a for 9.0")
set(MOE_GPU_PROGRAMS ${PROJECT_BINARY_DIR}/gpu)  # where they are put

set(moe_nvcc ${MOE_NVCC})
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND moe_nvcc -ccbin ${CMAKE_CXX_COMPILER})
endif()
if(MOE_GPU_ARCHITECTURE STREQUAL "90a")
  list(APPEND moe_nvcc -gencode=arch=compute_90a,code=sm_90a)  # a pair: -arch=sm_90a would also compile for a plain compute_90
else()
  list(APPEND moe_nvcc -arch=sm_${MOE_GPU_ARCHITECTURE})
endif()

# moe_nvcc_object(<name> <source> <flag> ...): the rule for ${MOE_GPU_PROGRAMS}/<name>.o. The source is read as CUDA, also where it is a .cpp. The flags say
# how the host's code is optimised; the device's always is.
function(moe_nvcc_object name source)
  set(object ${MOE_GPU_PROGRAMS}/${name}.o)
  file(MAKE_DIRECTORY ${MOE_GPU_PROGRAMS})
  add_custom_command(
    OUTPUT ${object} DEPFILE ${object}.d DEPENDS ${source}
    COMMAND ${moe_nvcc} -x cu -std=c++20 -Xcompiler=-fopenmp,-Wall,-Wextra -I${PROJECT_SOURCE_DIR}/include -I${PROJECT_SOURCE_DIR} ${ARGN}
            -MD -MF ${object}.d -c ${source} -o ${object}
    COMMENT "nvcc ${name}" VERBATIM)
endfunction()

# moe_nvcc_program(<name> OBJECTS <name> ... [LINK <flag> ...]): the target <name>, built when asked for, links ${MOE_GPU_PROGRAMS}/<name>.
function(moe_nvcc_program name)
  cmake_parse_arguments(arg "" "" "OBJECTS;LINK" ${ARGN})
  set(objects ${arg_OBJECTS})
  list(TRANSFORM objects REPLACE "(.+)" "${MOE_GPU_PROGRAMS}/\\1.o")
  add_custom_command(
    OUTPUT ${MOE_GPU_PROGRAMS}/${name} DEPENDS ${objects}
    COMMAND ${moe_nvcc} -Xcompiler=-fopenmp ${objects} -o ${MOE_GPU_PROGRAMS}/${name} ${arg_LINK}
    COMMENT "nvcc ${name}" VERBATIM)
  add_custom_target(${name} DEPENDS ${MOE_GPU_PROGRAMS}/${name})
endfunction()
