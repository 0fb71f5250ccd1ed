// Importing the module only has to run the static initialisers that register the operators.
#include <Python.h>

#define CONVT_STRING_(x) #x
#define CONVT_STRING(x) CONVT_STRING_(x)
#define CONVT_JOIN_(a, b) a##b
#define CONVT_JOIN(a, b) CONVT_JOIN_(a, b)

extern "C" PyMODINIT_FUNC CONVT_JOIN(PyInit_, CONVT_GEMM_MODULE)(void) {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, CONVT_STRING(CONVT_GEMM_MODULE), nullptr, -1, nullptr, nullptr, nullptr,
                                   nullptr, nullptr};
  return PyModule_Create(&definition);
}
