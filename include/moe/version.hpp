#pragma once
// The one place that holds the version: CMake, the package files and a test read it from here.
#define MOE_VERSION_MAJOR 0
#define MOE_VERSION_MINOR 1
#define MOE_VERSION_PATCH 0
