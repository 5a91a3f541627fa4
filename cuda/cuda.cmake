# Included by CMakeLists.txt when PK_WITH_CUDA is AUTO or ON: sets PK_CUDA and adds the library
# pk_cuda and the target cuda_report (registers, spills and shared memory of every kernel).
find_program(PK_NVCC nvcc HINTS ENV CUDACXX /usr/local/cuda/bin)
set(PK_NVCC_VERSION 0)
set(PK_NVCC_WHY "no nvcc")
if(PK_NVCC)
  execute_process(COMMAND ${PK_NVCC} --version OUTPUT_VARIABLE PK_NVCC_TEXT ERROR_QUIET)
  if(PK_NVCC_TEXT MATCHES "release ([0-9]+\\.[0-9]+)")
    set(PK_NVCC_VERSION ${CMAKE_MATCH_1})
  endif()
  if(PK_NVCC_VERSION VERSION_LESS 12.0)
    set(PK_NVCC_WHY "${PK_NVCC} is CUDA ${PK_NVCC_VERSION}, 12.0 or later is needed")
  else()
    if(NOT CMAKE_CUDA_COMPILER)
      set(CMAKE_CUDA_COMPILER ${PK_NVCC})
    endif()
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real)
    include(CheckLanguage)
    check_language(CXX)
    # Compiles a file, so that an nvcc without a host compiler it can use is found here.
    set(PK_NVCC_PROBE ${CMAKE_BINARY_DIR}/CMakeFiles/pk_nvcc_probe)
    file(WRITE ${PK_NVCC_PROBE}.cu "#include <cuda_bf16.h>\n__global__ void k(float *x) { *x = 1.0f; }\n")
    execute_process(COMMAND ${PK_NVCC} -std=c++17 -arch=sm_90a -c ${PK_NVCC_PROBE}.cu
      -o ${PK_NVCC_PROBE}.o RESULT_VARIABLE PK_NVCC_BAD OUTPUT_VARIABLE PK_NVCC_TEXT
      ERROR_VARIABLE PK_NVCC_TEXT)
    if(PK_NVCC_BAD OR NOT CMAKE_CXX_COMPILER)
      set(PK_NVCC_WHY "${PK_NVCC} cannot compile: ${PK_NVCC_TEXT}")
    else()
      set(PK_CUDA ON)
    endif()
  endif()
endif()
if(NOT PK_CUDA)
  if(PK_WITH_CUDA STREQUAL "AUTO")
    message(STATUS "CUDA backend: left out, ${PK_NVCC_WHY}")
    return()
  endif()
  message(FATAL_ERROR "PK_WITH_CUDA=ON, but ${PK_NVCC_WHY}")
endif()

enable_language(CXX)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
message(STATUS "CUDA backend: CUDA ${PK_NVCC_VERSION}, sm_80 and sm_90a")

file(GLOB PK_CUDA_CU CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cuda/*.cu)
file(GLOB PK_CUDA_C CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cuda/*.c)
file(GLOB PK_CUDA_H CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cuda/*.h ${CMAKE_SOURCE_DIR}/core/*.h)

# cuda/matmul_cublaslt.c is the one file that needs cuBLASLt's header; the library itself is loaded at
# run time. Without the header matmul_none.c takes its place.
option(PK_WITH_CUBLASLT "products by cuBLASLt (cuda/matmul_cublaslt.c); else own kernels only" ON)
find_file(PK_CUBLASLT_H cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS} NO_DEFAULT_PATH)
if(PK_WITH_CUBLASLT AND PK_CUBLASLT_H)
  list(FILTER PK_CUDA_C EXCLUDE REGEX "/matmul_none\\.c$")
else()
  list(FILTER PK_CUDA_C EXCLUDE REGEX "/matmul_cublaslt\\.c$")
endif()

# Likewise cuda/conv_cudnn.c, cuDNN 9 and conv_none.c. Its header may lie beside the compiler's.
option(PK_WITH_CUDNN "convolutions by cuDNN (cuda/conv_cudnn.c); else own kernels only" ON)
find_path(PK_CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
if(PK_WITH_CUDNN AND PK_CUDNN_INCLUDE)
  list(FILTER PK_CUDA_C EXCLUDE REGEX "/conv_none\\.c$")
else()
  list(FILTER PK_CUDA_C EXCLUDE REGEX "/conv_cudnn\\.c$")
endif()

add_library(pk_cuda STATIC ${PK_CUDA_CU} ${PK_CUDA_C})
target_link_libraries(pk_cuda PRIVATE ${CMAKE_DL_LIBS})
set_target_properties(pk_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
  CUDA_EXTENSIONS OFF CUDA_RUNTIME_LIBRARY Static CUDA_ARCHITECTURES "80;90a-real") # 80 also as PTX, for GPUs to come
set(PK_CUDA_FLAGS -Werror=all-warnings -Xptxas=-v -Xcompiler=-Wall,-Wextra,-Werror,-ffp-contract=off
  -Xcompiler=-fno-math-errno)
target_compile_options(pk_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:${PK_CUDA_FLAGS}>)
target_include_directories(pk_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
if(PK_WITH_CUDNN AND PK_CUDNN_INCLUDE)
  set_source_files_properties(${CMAKE_SOURCE_DIR}/cuda/conv_cudnn.c PROPERTIES COMPILE_OPTIONS
    "-isystem;${PK_CUDNN_INCLUDE}")
endif()
target_link_libraries(pk_cuda PUBLIC purkinje CUDA::cudart_static)

# What ptxas says of every kernel is kept; the target fails when one spills registers.
set(PK_NVCC_LAUNCHER ${CMAKE_SOURCE_DIR}/tools/nvcc_log ${CMAKE_BINARY_DIR}/ptxas
  ${CMAKE_CUDA_COMPILER_LAUNCHER})
set_target_properties(pk_cuda PROPERTIES CUDA_COMPILER_LAUNCHER "${PK_NVCC_LAUNCHER}")
add_custom_target(cuda_report DEPENDS pk_cuda USES_TERMINAL
  COMMAND ${CMAKE_SOURCE_DIR}/tools/cuda_report ${CMAKE_BINARY_DIR}/ptxas)
