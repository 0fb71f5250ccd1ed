#!/usr/bin/env bash
# Everything that needs a GPU, against a build made elsewhere: CI has none, so this is run by hand before kernels change hands.
#
#   tests/on_gpu.sh BINARIES SITE [LOGS [STAGE...]]
#
# BINARIES holds convt_gemm_host_tests and convt_gemm_cuda_tests, SITE the installed package (and what the tests import besides),
# LOGS (a new temporary folder by default) gets the full output. A missing GPU is a failure. Stages, all by default, one after the other: tests (all of
# them, then host times alone), memcheck, racecheck, initcheck (with all plans on small problems, windows on long rows, and direct kernels on few channels and positions), each in shards beside each other.
set -u
logs=${3:-$(mktemp -d)}
stages=("${@:4}")
[ ${#stages[@]} = 0 ] && stages=(tests memcheck racecheck initcheck)
mkdir -p "$logs"
binaries=$(realpath "$1") site=$(realpath "$2") logs=$(realpath "$logs")
here=$(realpath "$(dirname "$0")")
failed=0

export CONVT_GEMM_REQUIRE_GPU=1 PYTHONPATH=$site
libraries=$(python3 -c 'import os, nvidia; print(os.path.join(list(nvidia.__path__)[0], "cu13", "lib"))')
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

check() { # seconds, name, command...
  local limit=$1 name=$2
  shift 2
  timeout "$limit" "$@" >"$logs/$name.log" 2>&1  # a kernel that waits for ever must not take the rest with it
  local status=$?
  echo "$name: exit $status; $(tail -n 1 "$logs/$name.log")"
  [ $status = 0 ] || { failed=1; grep -E 'FAILED|Failure|^E  |Error:' "$logs/$name.log" | head -n 30; }
  return $status
}
# Two problems with every plan first: if one fails, the rest would only spend the machine's time.
check 120 smoke "$binaries/convt_gemm_cuda_tests" --gtest_brief=1 --gtest_filter='*ExactForward*/reference_problem:*ExactForward*/aligned_channels' || exit 1

jobs=()
beside() { # seconds, name, command...
  check "$@" &
  jobs+=("$!")
}
wait_for_all() {
  local job
  for job in "${jobs[@]}"; do wait "$job" || failed=1; done
  jobs=()
}
cd "$here" || exit 1
for stage in "${stages[@]}"; do
  case $stage in
    tests)
      beside 200 host_tests "$binaries/convt_gemm_host_tests" --gtest_brief=1
      beside 500 cuda_tests "$binaries/convt_gemm_cuda_tests" --gtest_brief=1
      wait_for_all  # both kinds of tests have problems that take half of 80 GB
      workers=$(python3 -c 'import xdist' 2>/dev/null && echo '-n 4')
      # shellcheck disable=SC2086
      beside 500 pytest python3 -m pytest -q $workers --maxfail=25 -p no:cacheprovider python
      wait_for_all
      python3 host_time.py || failed=1
      ;;
    memcheck | racecheck | initcheck)
      # In the deepest problem cuBLAS splits the depth, where racecheck and initcheck object to its own kernels.
      shards=6
      [ "$stage" = racecheck ] && shards=12
      for ((shard = 0; shard < shards; ++shard)); do
        beside 500 "$stage.$shard" env CONVT_GEMM_MOST_PIECES=24 GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard compute-sanitizer --tool "$stage" \
          --error-exitcode 9 "$binaries/convt_gemm_cuda_tests" --gtest_brief=1 --gtest_filter='*Small*:Random*:*MoreWeights*-*very_deep*'
      done
      beside 500 "$stage.windows" env CONVT_GEMM_PLANS=windows compute-sanitizer --tool "$stage" --error-exitcode 9 "$binaries/convt_gemm_cuda_tests" \
        --gtest_brief=1 --gtest_filter='LongRows*:ShiftedRows*:Planes*'
      beside 500 "$stage.direct" env CONVT_GEMM_PLANS=direct compute-sanitizer --tool "$stage" --error-exitcode 9 "$binaries/convt_gemm_cuda_tests" \
        --gtest_brief=1 --gtest_filter='FewColumns*:FewPositions*'
      wait_for_all
      ;;
    *)
      echo "no stage '$stage': expected tests, memcheck, racecheck or initcheck" >&2
      exit 2
      ;;
  esac
done
exit $failed
