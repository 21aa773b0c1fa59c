#!/bin/bash
# Every environment variable and every long option is documented where a reader
# looks for it, and the files that the documents name exist.
#
# SPDX-License-Identifier: MIT
set -u
srcdir=${srcdir:-.}
build=${top_builddir:-.}
status=0

fail()
{
	echo "FAIL: $*"
	status=1
}

# --- environment variables ---------------------------------------------------

documented()	# variable
{
	grep -q "$1" "$srcdir/lib/cowfork.7" "$srcdir/src/cowfork-run.1" ||
		fail "$1 is neither in cowfork(7) nor in cowfork-run(1)"
	grep -q "$1" "$srcdir/README.md" || fail "$1 is not in README.md"
}

# a name in the sources is one in a string; the rest are header guards
names=$(grep -oh '"COWFORK_[A-Z_]*' "$srcdir"/lib/*.c "$srcdir"/src/*.c |
	tr -d '"' | sort -u)
[ -n "$names" ] || fail "no environment variable in the sources"
for name in $names; do
	documented "$name"
done

# and back: what is documented exists
for name in $(grep -oh 'COWFORK_[A-Z_]*[A-Z]' "$srcdir/lib/cowfork.7" \
		"$srcdir/src/cowfork-run.1" "$srcdir/README.md" | sort -u); do
	grep -q "\"$name" "$srcdir"/lib/*.c "$srcdir"/src/*.c ||
		fail "$name is documented, but no source reads it"
done

# --- long options -------------------------------------------------------------

options_of()	# program
{
	"$build/src/$1" --help 2>&1 | grep -oE -- '(^|[^[:alnum:]-])--[a-z][a-z-]*' |
		grep -oE -- '[a-z][a-z-]*' | sort -u
}

for program in cowfork-run cowfork-compare; do
	if [ ! -x "$build/src/$program" ]; then
		echo "left out: $program was not built"
		continue
	fi
	page=$srcdir/src/$program.1
	options=$(options_of $program)
	[ -n "$options" ] || fail "$program --help lists no option"
	for option in $options; do
		grep -qE "Fl -$option( |\$)" "$page" ||
			fail "--$option of $program is not in ${page##*/}"
	done
	for option in $(grep -oE 'Fl -[a-z-]+' "$page" | sed 's/Fl -//' | sort -u); do
		grep -qx -- "$option" <<<"$options" ||
			fail "${page##*/} has --$option, $program --help does not"
	done
done

# --- files named in the documents ---------------------------------------------

exists()	# path or pattern, from the top of the sources or of the build
{
	compgen -G "$srcdir/$1" >/dev/null || compgen -G "$build/$1" >/dev/null && return
	[[ $1 != */* && -n $(find "$srcdir"/*/ -name "$1" -print -quit) ]]
}

# words in backticks that look like files of ours, and links without a scheme
names_in()	# document
{
	{
		grep -oE '`[^` ]+`' "$1" | tr -d '`'
		grep -oE '\]\([^):]+\)' "$1" | sed 's/^](//; s/[)#].*//'
	} | sed 's:^\./::' | grep -E '^[A-Za-z0-9_.*+/-]+$' | sort -u
}

looks_like_file()
{
	case $1 in
	/*|-*|build/*) return 1 ;;
	*.c|*.h|*.sh|*.am|*.ac|*.md|*.map|*.svg|*.[137]) return 0 ;;
	*/*) [ -d "$srcdir/${1%%/*}" ] ;;
	*) return 1 ;;
	esac
}

for document in README.md CONTRIBUTING.md; do
	while read -r name; do
		looks_like_file "$name" || continue
		exists "$name" || fail "$document names $name, which does not exist"
	done < <(names_in "$srcdir/$document")
done

[ $status != 0 ] || echo "documented: $(tr '\n' ' ' <<<"$names")and all options"
exit $status
