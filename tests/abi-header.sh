#!/bin/sh
# cowfork.h compiles alone, first and twice, without a warning, as C and as C++.
#
# SPDX-License-Identifier: MIT
set -u
include=${srcdir:-.}/include
status=0
tried=

compile()	# compiler, language, standard
{
	command -v "${1%% *}" >/dev/null || { echo "left out: no $1"; return; }
	tried=$tried${tried:+, }$1\ $3
	printf '%s\n' '#include <cowfork.h>' '#include <cowfork.h>' \
		'const char *f(void);' 'const char *f(void) { return cow_version(); }' |
		$1 -x "$2" "-std=$3" -Wall -Wextra -pedantic -Wundef -Werror \
			-I"$include" -fsyntax-only - ||
		{ echo "FAIL: $1 -std=$3"; status=1; }
}

for cc in "${CC:-gcc}" clang; do
	for std in c99 c11 gnu17; do
		compile "$cc" c "$std"
	done
done
for cxx in "${CXX:-g++}" clang++; do
	for std in c++11 c++17; do
		compile "$cxx" c++ "$std"
	done
done

case $tried in
*c11*c++11*) echo "compiled with $tried" ;;
*) echo "skip: a compiler for C and one for C++ are needed"; exit 77 ;;
esac
exit $status
