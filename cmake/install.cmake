# The package: headers, moe-config.cmake with the targets moe::moe and moe::cuda, and moe.pc. Nothing in it depends on the machine.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(DIRECTORY include/moe DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/moe)
install(TARGETS moe EXPORT moe-targets INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT moe-targets NAMESPACE moe:: DESTINATION ${package_dir})
install(TARGETS moe_cuda EXPORT moe-cuda-targets)
install(EXPORT moe-cuda-targets NAMESPACE moe:: DESTINATION ${package_dir})
configure_package_config_file(cmake/moe-config.cmake.in moe-config.cmake INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(moe-config-version.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/moe-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/moe-config-version.cmake DESTINATION ${package_dir})

# Relative to the .pc file where the directories allow it, so that an installed tree can be moved.
set(moe_pc_prefix ${CMAKE_INSTALL_PREFIX})
set(moe_pc_includedir ${CMAKE_INSTALL_FULL_INCLUDEDIR})
if(NOT IS_ABSOLUTE ${CMAKE_INSTALL_INCLUDEDIR} AND NOT IS_ABSOLUTE ${CMAKE_INSTALL_DATADIR})
  file(RELATIVE_PATH moe_pc_prefix /prefix/${CMAKE_INSTALL_DATADIR}/pkgconfig /prefix)
  string(REGEX REPLACE "/$" "" moe_pc_prefix "\${pcfiledir}/${moe_pc_prefix}")
  set(moe_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file(cmake/moe.pc.in moe.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/moe.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
