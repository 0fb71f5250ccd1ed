#pragma once
// Everything a C++ user needs.
#include "convt_gemm/exec.h"       // IWYU pragma: export
#include "convt_gemm/plan.h"       // IWYU pragma: export
#include "convt_gemm/problem.h"    // IWYU pragma: export
#include "convt_gemm/reference.h"  // IWYU pragma: export
#include "convt_gemm/status.h"     // IWYU pragma: export
