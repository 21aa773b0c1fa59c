#!/bin/sh
# tests/preload-threads.c and tests/preload-odd.c as they are, with the in-place engine:
# every scenario of the first; of the second the cases that ask for no state of the store.
#
# SPDX-License-Identifier: MIT
set -u
build=${top_builddir:-.}
tests=${srcdir:-.}/tests
[ -x "$build/src/cowfork-run" ] || { echo "skip: cowfork-run was not built"; exit 77; }
"$build/src/cowfork-run" --explain | grep -q '^NO .*tells of forks' &&
	{ echo "skip: no userfaultfd that tells of forks"; exit 77; }
export COWFORK_ENGINE=in-place COWFORK_ADOPT=first

# They want memory in the store, or wait for a thaw; or other libraries beside them.
of_the_store='first-thread-leaves libraries-fork memory-comes-back move-a-file-from-a-window
move-shared-memory-from-a-window move-what-was-a-guard refreshes-keep-everything
stack-of-a-coroutine stack-of-a-signal stack-of-a-thread'

cases=
for name in $("$build/tests/preload-odd" --list); do
	case " $(echo $of_the_store) " in
	*" $name "*) ;;
	*) cases="$cases $name" ;;
	esac
done
status=0
sh "$tests/preload-odd.sh" $cases || status=1
sh "$tests/preload-threads.sh" --seconds "${SECONDS_EACH:-1.5}" || status=1
exit $status
