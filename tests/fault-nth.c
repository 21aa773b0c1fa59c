/*
 * A whole life (life.h) with the n-th call that the library makes of each kind
 * refused, for every n that there is; with another errno; and with all refused
 * from the n-th on. Whatever is refused: no wrong byte anywhere, no hang, errors
 * only as they are documented, and once the refusals end all works again and
 * nothing is left behind. The same for a life in which all memory is locked, which
 * retires the stores, and for lives in which memory is adopted.
 *
 * Use: fault-nth [--step N] [--script N] [--door NAME [--nth N [--how HOW]]]
 *      fault-nth --life 1	nothing is refused: for where a facility is missing
 *      fault-nth --life NAME	the same of another one: beside, adopt, adopt-beside
 * --step 1 refuses every call in turn, which takes hours; without it some are. Script 0
 * is the life, 1 that in which memory is locked, 2 that with threads, 3 and 4 those with
 * adoption, alone and with threads. The address of a complaint is that of the call, for
 * addr2line(1).
 * HOW: 0 once, 1 once with the other errno, 2 ever after, and, by hand only, 3:
 * mremap fails after it has unmapped its target, as no kernel is known to do
 * unless its own memory runs out.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "door.h"
#include "life.h"
#include "support.h"

#define MORE_MAPS 16	/* than after a life without refusals: a refused madvise()
			 * leaves maps that do not merge */
#define STEP 25
#define LONG 4			/* times the steps of what takes long */
#define NEVER 1000000u	/* more calls than there are */

enum script { LIFE, RETIRE, BESIDE, ADOPT, ADOPT_BESIDE, SCRIPTS };

static int only = -1;		/* script, or all */
static int *maps_left;		/* shared with the life */
static int clean_maps[SCRIPTS];
static unsigned clean_calls[SCRIPTS][DOOR_COUNT];

static int play(enum script script, enum door door, unsigned nth, enum how how)
{
	static int (*const lives[])(void) = { life, life_again, life_beside, life_adopts,
					      life_adopts_beside };
	int bad;

	door_order(door, nth, how);
	bad = lives[script]();
	door_order(door, 0, how);
	bad = bad || (script == BESIDE && life_thaws());
	bad = bad || (script >= ADOPT && life_adopted(script == ADOPT_BESIDE));
	bad = bad || life_afterwards(maps_left);
	return bad || (script == LIFE && life_again());
}

/* Returns whether all went well; door_failed() whether there was such a call. */
static int try(enum script script, enum door door, unsigned nth, enum how how)
{
	pid_t pid;
	int status, segments;

	door_order(door, 0, how);
	*maps_left = 0;
	pid = fork();
	if (pid == 0)
		_exit(play(script, door, nth, how));
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return 0;
	segments = shm_segments(pid);
	if (!clean_maps[script])
		clean_maps[script] = *maps_left;
	if (!status && !segments && (door == DOOR_sys_munmap ||
				     *maps_left <= clean_maps[script] + MORE_MAPS))
		return 1;
	printf("%s %u, how %d, script %d, called from %#lx: status %#x, %d segments left, "
	       "%d maps after %d\n", door_name(door), nth, how, script, door_caller(), status,
	       segments, *maps_left, clean_maps[script]);
	return 0;
}

static int all_of(enum script script, enum door door, enum how how, unsigned step,
		  unsigned *ret_tried)
{
	int bad = 0;
	unsigned nth;

	if (script >= ADOPT && step > 1)
		step *= LONG;
	nth = 1 + (unsigned)door % step;	/* not the same of each */
	for (; nth <= clean_calls[script][door] && bad < 5; nth += step) {
		bad += !try(script, door, nth, how);
		*ret_tried += door_failed() != 0;
	}
	return bad;
}

static int is_wanted(int script)
{
	return only < 0 || script == only;
}

static int all_doors(unsigned step, int wanted)
{
	int bad = 0;

	for (int door = 0; door < DOOR_COUNT; door++) {
		unsigned tried = 0;

		if (wanted >= 0 && door != wanted)
			continue;
		for (int script = 0; script < SCRIPTS; script++)
			for (int how = HOW_ONCE; is_wanted(script) && how < HOW_UNMAPPED; how++)
				bad += all_of((enum script)script, (enum door)door, (enum how)how,
					      how == HOW_ONCE ? step : 5 * step, &tried);
		printf("%-20s %4u refusals\n", door_name((enum door)door), tried);
	}
	return bad;
}

/* --- before main() ------------------------------------------------------ */

static int try_early(const char *what)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		setenv("COWFORK_TEST_DOOR", what, 1);
		execl("/proc/self/exe", "fault-nth", "--life", NULL);
		_exit(99);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return 1;
	if (status)
		printf("%s of the start: status %#x\n", what, status);
	return status != 0;
}

static int all_early(void)
{
	static const char *const calls[] = {
		"sys_mmap 1", "sys_madvise 1", "pthread_atfork 1", "sys_open 1",
		"sys_munmap 1", "sys_mprotect 1",
	};
	int bad = 0;

	for (int i = 0; i < COUNT(calls); i++)
		bad += try_early(calls[i]);
	return bad;
}

/* --- main --------------------------------------------------------------- */

static int door_named(const char *name)
{
	for (int i = 0; i < DOOR_COUNT; i++)
		if (!strcmp(name, door_name((enum door)i)))
			return i;
	fprintf(stderr, "no door %s\n", name);
	exit(2);
}

/* How many calls of each kind are there to refuse? */
static int try_clean(enum script script)
{
	int bad = !try(script, DOOR_fork, NEVER, HOW_ONCE);

	for (int door = 0; door < DOOR_COUNT; door++)
		clean_calls[script][door] = door_calls((enum door)door);
	return bad;
}

static int all(unsigned step, int door)
{
	int bad = 0;

	for (int script = 0; script < SCRIPTS; script++)
		bad += try_clean((enum script)script);
	if (bad)
		return 1;
	if (door < 0)
		bad = all_early();
	bad += all_doors(step ? step : 1, door);
	printf("%d failures\n", bad);
	return bad != 0;
}

static int one(int door, unsigned nth, int how)
{
	int bad = 0;

	for (int script = 0; script < SCRIPTS; script++)
		bad |= is_wanted(script) &&
		       !try((enum script)script, (enum door)door, nth, (enum how)how);
	return bad;
}

/* Nothing is refused, but a facility may be missing. */
static int whole(const char *name)
{
	int maps;

	if (!strcmp(name, "beside"))
		return life_beside() || life_afterwards(&maps);
	if (!strcmp(name, "adopt"))
		return life_adopts() || life_afterwards(&maps);
	if (!strcmp(name, "adopt-beside"))
		return life_adopts_beside() || life_afterwards(&maps);
	return life() || life_afterwards(&maps) || life_again();
}

int main(int argc, char **argv)
{
	unsigned step = STEP, nth = 0;
	int door = -1, how = HOW_ONCE;

	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc > 1 && !strcmp(argv[1], "--life"))
		return whole(argc > 2 ? argv[2] : "");
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--step"))
			step = (unsigned)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--door"))
			door = door_named(argv[i + 1]);
		else if (!strcmp(argv[i], "--nth"))
			nth = (unsigned)atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--script"))
			only = atoi(argv[i + 1]) % SCRIPTS;
		else if (!strcmp(argv[i], "--how"))
			how = atoi(argv[i + 1]) % HOW_COUNT;
	}
	maps_left = mmap(NULL, sizeof(*maps_left), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (maps_left == MAP_FAILED)
		return perror("mmap"), 2;
	door_begin();
	if (nth && door >= 0)
		return one(door, nth, how);
	return all(step, door);
}
