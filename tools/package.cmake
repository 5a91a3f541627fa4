# What 'cmake --install' and 'cpack' put where (included by CMakeLists.txt).
#
# Component "program": the program, its recipes, man page, completion, cluster templates, documents.
# Component "development": libpurkinje.a, its headers and purkinje.pc. The library is what models,
# data sets and the CPU backend need; subcommands and CUDA kernels are in the program alone.

# The man page and the completion come from the program's own table of options.
set(PK_GENERATED "")
if(NOT CMAKE_CROSSCOMPILING)
  foreach(kind man bash)
    set(PK_GENERATED_${kind} ${CMAKE_BINARY_DIR}/generated/${kind}/purkinje)
    if(kind STREQUAL "man")
      string(APPEND PK_GENERATED_${kind} ".1")
    endif()
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/generated/${kind})
    add_custom_command(OUTPUT ${PK_GENERATED_${kind}}
      COMMAND purkinje_program completion ${kind} > ${PK_GENERATED_${kind}}
      DEPENDS purkinje_program VERBATIM)
    list(APPEND PK_GENERATED ${PK_GENERATED_${kind}})
  endforeach()
  add_custom_target(purkinje_generated ALL DEPENDS ${PK_GENERATED})
  install(FILES ${PK_GENERATED_man} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT program)
  install(FILES ${PK_GENERATED_bash} DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
    COMPONENT program)
endif()

install(TARGETS purkinje_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
install(DIRECTORY recipes DESTINATION ${CMAKE_INSTALL_DATADIR}/purkinje COMPONENT program
  FILES_MATCHING PATTERN "*.yaml")
install(DIRECTORY tools/cluster DESTINATION ${CMAKE_INSTALL_DATADIR}/purkinje COMPONENT program
  USE_SOURCE_PERMISSIONS PATTERN "__pycache__" EXCLUDE)
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright COMPONENT program) # Debian's name
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program
  FILES_MATCHING PATTERN "*.md" PATTERN "*.svg" PATTERN "load_model.py")

# Headers keep their folders, since they include each other by them: core/base.h ...
install(TARGETS purkinje ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
foreach(folder core models datasets)
  install(DIRECTORY ${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/purkinje COMPONENT development
    FILES_MATCHING PATTERN "*.h" PATTERN "*_internal.h" EXCLUDE)
endforeach()
# What the static library needs besides, as the linker wants to hear it.
set(PK_PC_LIBS "-lm -pthread")
if(PK_WITH_YAML)
  string(APPEND PK_PC_LIBS " ${YAML_LIBRARY}")
endif()
if(PK_WITH_HDF5)
  string(REPLACE ";" " " PK_PC_HDF5 "${HDF5_C_LIBRARIES}")
  string(APPEND PK_PC_LIBS " ${PK_PC_HDF5}")
endif()
if(PK_WITH_ONEDNN)
  string(APPEND PK_PC_LIBS " ${DNNL_LIBRARY} ${OpenMP_C_FLAGS}")
endif()
file(RELATIVE_PATH PK_PC_PREFIX /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(${CMAKE_SOURCE_DIR}/tools/purkinje.pc.in ${CMAKE_BINARY_DIR}/generated/purkinje.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/generated/purkinje.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)

# cpack -G DEB: purkinje and libpurkinje-dev; cpack -G TGZ: one archive of each component.
set(CPACK_PACKAGE_NAME purkinje)
set(CPACK_PACKAGE_VENDOR "the Purkinje authors")
set(CPACK_PACKAGE_CONTACT "the Purkinje authors <purkinje@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "pretrain and fine-tune models of ECG and PPG")
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_RESOURCE_FILE_LICENSE ${CMAKE_SOURCE_DIR}/LICENSE)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_GENERATOR "DEB;TGZ")
set(CPACK_COMPONENTS_ALL program development)
set(CPACK_STRIP_FILES ON)
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME purkinje)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SHLIBDEPS ON)
set(CPACK_COMPONENT_PROGRAM_DESCRIPTION "The program, its recipes, templates for clusters, documents.")
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libpurkinje-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "The static library, its headers and pkg-config file.")
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "")
foreach(pair WITH_YAML:libyaml-dev WITH_HDF5:libhdf5-dev WITH_ONEDNN:libdnnl-dev)
  string(REPLACE ":" ";" pair ${pair})
  list(GET pair 0 option)
  list(GET pair 1 package)
  if(PK_${option})
    list(APPEND CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS ${package})
  endif()
endforeach()
string(REPLACE ";" ", " CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
  "${CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS}")
include(CPack)
