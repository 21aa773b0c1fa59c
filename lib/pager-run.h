/*
 * The pager's own: what it knows, and how it serves. Nothing of this is for the program's
 * threads, but the question (pager.c).
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COWFORK_PAGER_RUN_H
#define COWFORK_PAGER_RUN_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "pager.h"
#include "store.h"

#define FIRST_KID 3u		/* of what an epoll tells: below are the program's faults, the
				 * bell, and the program's end */
#define KIDS 1024u		/* that may be incomplete at a time */
#define ROOM 768u		/* ... before who comes gets all that it lacks */
#define FILES 65536u		/* that may be open: above, a fork waits until somebody ends */
#define KID_RANGES 1024u		/* for each child; with more it takes a large table */
#define LARGE_RANGES 131072u	/* every second page of 1 GiB */
#define LARGE_TABLES 8u
#define MANY_RANGES 256u	/* with which a child gets all that it lacks */
#define BOUNCE ((size_t)16 << 20)	/* as much as is worth some ms */
#define CACHED ((size_t)256 << 10)	/* a cache's, and a page of any size */
#define DIRTY 16384u		/* one call each; more, and a call for all is as cheap */
#define HOLES 4096u		/* ranges of them, of each kind */
#define LEFT 64u
#define WAITING 64u
#define TRACKS 4u
#define SCATTERED_TABLES 512u	/* counted apart */
#define SCATTERED_MANY 16u	/* of a table: all of it is cheaper then, */
#define SCATTERED_FEW 4u	/* ... where several tables were like that */
#define SCATTERED_TABLES_FULL 4u	/* several */

/* How a process touches memory. */
struct tracks {
	struct track {		/* grows while somebody touches in order */
		uintptr_t next;	/* where a fault would follow the last */
		size_t size;
	} at[TRACKS];
	unsigned turn;
	uint8_t scattered[SCATTERED_TABLES];	/* faults in a table, else */
	unsigned full;		/* tables in which those were many */
};

/* Why a child cannot be served, which ends it when it touches that. */
enum {
	LOST_UNMAPPED = 1,	/* by the parent, unseen */
	LOST_UNREADABLE = 2,	/* the kernel has it no more: hwpoison, a swap device's error */
	LOST_MASK = 3,
};

struct kid_range {		/* missing pages here are the parent's, elsewhere zeros */
	uintptr_t start, end;
	uintptr_t source;	/* where start lay at the fork; or LOST_*, below a page */
};

struct large_table {
	const struct kid *of;		/* NULL: nobody's */
	struct kid_range at[LARGE_RANGES];
};

/* A child's memory, or a grandchild's. */
struct kid {
	int fd;			/* its userfaultfd; 0: none */
	int suspect;		/* it was made by a call that the library did not see: its
				 * memory may still be wiped at a fork of its own */
	int gone;		/* some of it is not where it was; where it went is told next */
	int completing;		/* it gets all of it */
	int hurries;		/* ... as soon as there is time */
	uintptr_t wanted;	/* the page of the fault that it is served for */
	struct pager_area waits;	/* who faulted, and was put off */
	struct tracks tracks;
	unsigned count, room;
	struct kid_range *open;		/* its own, or a large table's */
	struct large_table *large;	/* all that there are */
	struct kid_range own[KID_RANGES];
};

/* Shared with the keeper; children can read it. */
struct pager_shared {
	atomic_int lost;
	atomic_int open;		/* a child may be made that nobody knows */
	struct pager_lists areas;
	_Atomic(int) uffd, bell;
	uint64_t own;			/* bits: descriptors of pager and keeper */
	_Atomic(uint64_t) files[FILES / 64];	/* bits: which are children's userfaultfds */
};

/* Memory that was moved, and children get it just now. */
struct moving {
	uintptr_t start, end;
	uintptr_t from;
	const struct moving *before;	/* of which the next move was told meanwhile */
};

/* A page of what is read for a child at once. */
enum {
	PAGE_READ,		/* into the bounce buffer */
	PAGE_ZEROS,		/* a hole */
	PAGE_GONE,		/* something else lies there since */
};

struct pager {
	/* the question */
	unsigned asked;
	enum pager_op op;
	uintptr_t start, end;
	int asker;			/* thread id */
	int alone;			/* the process has no other */
	atomic_uint answered;
	int answer;
	uintptr_t bell_page;
	/* its life */
	atomic_uint state;		/* PAGER_BEGINS and so on; waited for */
	enum cow_reason why;		/* it could not begin */
	int unwanted;			/* it ends when no child needs it */
	int ends;			/* it is needed no more */
	int pid, self, parent;		/* pid: as the program knows it */
	size_t bytes;			/* of its memory, from the bell on */
	/* what it alone knows */
	struct pager_shared *shared;
	const struct pager_shared *seen;	/* the same, as children see it */
	int uffd, bell, epoll, pidfd;
	int ask, said, keeper;		/* ends of pipes to the keeper and from it; its pidfd */
	int keeper_pid;
	int mem, pagemap, fdinfo;	/* /proc/self/mem, .../pagemap, .../fdinfo/uffd */
	struct pager_area dirty[DIRTY];
	unsigned dirty_count;
	struct pager_area vacated[HOLES];	/* where holes may be */
	struct pager_area hollow[HOLES];	/* ... and holes were at the last fork: who lacks
					 * one gets zeros */
	struct pager_area unfilled[HOLES];	/* the same, of the next fork */
	unsigned vacated_count, hollow_count, unfilled_count;
	int unfilled_full;		/* or of anything else */
	size_t fill_left;		/* bytes that may be filled before this fork */
	struct pager_area left[LEFT];	/* gone since the window was to open: a child that is not
					 * known yet may lack it */
	unsigned left_count;
	struct pager_area late[LEFT];	/* removals that were told of, the last ones: when one is
					 * done nobody tells */
	unsigned late_count;		/* as many since all were done */
	int opens;			/* holes were filled for a fork, and its window is not
					 * open yet */
	int going;			/* armed memory was unmapped, and is in the list still */
	int slow;			/* to see whether what is armed is there; as of the last look */
	int stale;			/* somebody got nothing of what is there: it may be what
					 * was moved there, of which the next event tells */
	struct pager_area announced;	/* PAGER_GIVE has prepared a removal of that */
	uint64_t asking;		/* who moves memory, ns since an event was read */
	int unanswered;			/* ... which cannot be seen, or not in time */
	int prepared;			/* children have what is there, whatever is read next */
	struct pager_area by_hand;	/* the last run of holes that a look found, for who is
					 * served just now */
	const struct moving *_Atomic moving;	/* the program asks, too */
	struct pager_area waits;	/* who of the program faulted, and an event comes before */
	uint64_t refused, refused_last;	/* ... since then for all of them; CLOCK_MONOTONIC, ns */
	int leaving;			/* one of them gets plain memory */
	unsigned kids, top, born;	/* how many, above the last, ever */
	unsigned most;			/* that there can be */
	unsigned hurried, swept;	/* how many hurry; born at the last look for who ended */
	int tells_lengths;		/* of moves that shrink */
	unsigned placeless;		/* for how many there was no place */
	int deaf;			/* epoll had no room for somebody: look at all by time */
	struct kid *newest;
	uintptr_t waiting[WAITING];	/* pages of writers, in the window */
	unsigned waiting_count;
	uint64_t patience;		/* ... until then; CLOCK_MONOTONIC, ns */
	struct tracks tracks;		/* of the program's writes */
	struct pager_news news;
	char *bounce;			/* on the way to a child; begins with a huge page */
	char bounce_room[BOUNCE + TABLE_SIZE];
	unsigned char read[BOUNCE / 4096];	/* what its pages are: PAGE_READ and so on */
	size_t bounced;			/* as much at most since there was nothing to do */
	uint64_t entries[TABLE_SIZE / 4096];	/* of pagemap */
	struct kid kid[KIDS];
	struct large_table large[LARGE_TABLES];
};

enum { PAGER_BEGINS, PAGER_RUNS, PAGER_FAILED };

struct uffd_msg;

/* --- pager-kids.c: who lacks what --------------------------------------- */

/* Of a child of the program (NULL), or a child's. NULL: no room, and it is killed when it
 * needs something. Its descriptor is not closed as long as it lacks what it should have, for
 * then the kernel makes zeros of that. */
struct kid *kid_new(struct pager *p, int fd, const struct kid *of);
void kid_close(struct pager *p, struct kid *k);

/* Something came from a child, by the number that its descriptor was added to the epoll
 * with: serve it, or note what it did with its memory. What is left then comes again. */
void kid_comes(struct pager *p, uint64_t number);
void kids_come(struct pager *p);	/* ... from anyone */

/* Let every child have [start, end), which the program is about to change. -EAGAIN: some of
 * it may have moved, of which the next event tells. */
int kids_give(struct pager *p, uintptr_t start, uintptr_t end);

/* ... and forget that it was ever there; or do so with all that they lack. */
int kids_leave(struct pager *p, uintptr_t start, uintptr_t end);
void kids_complete(struct pager *p);

/* What of [start, end) a child lacks is gone: it ends when it touches that. */
void kids_lose(struct pager *p, uintptr_t start, uintptr_t end);

/* ... but for holes that were there at the fork. */
void kids_lose_solid(struct pager *p, uintptr_t start, uintptr_t end);

/* It lies at `to` now, write-protected still. */
void kids_moved(struct pager *p, uintptr_t from, uintptr_t to, size_t len);

/* What is lost is poisoned, so that nobody needs the pager for that. */
void kids_poison(struct pager *p);

/* Who lacks what is lost needs the pager as well, which ends it. */
int kids_lack(const struct pager *p);
void kids_sweep(struct pager *p);	/* forget those that have ended */

/* It gets all that it lacks as soon as there is time: when it is served, or now. */
void kid_hurries(struct pager *p, struct kid *k);
void kids_hurry(struct pager *p);

/* --- pager-both.c: of what is told, of the program or a child ------------ */

/* How much was moved, as was just read? Before Linux 6.15 the kernel tells the length of before
 * where that shrank (MREMAP_FIXED; mm/mremap.c, mremap_userfaultfd_complete), and the rest as
 * unmapped next, which is read for that, and is to be handled then (event: 0, there is none).
 * 0: nobody knows, for another thread did something, too. */
size_t move_length(const struct pager *p, int uffd, const struct uffd_msg *m,
		   struct uffd_msg *ret_next);

/* A fault that cannot be served now. What locked memory grows by, mremap(2) populates before it
 * lets its move be read, ahead of which the kernel takes no page (mm/mremap.c, do_mremap): so
 * that page is let go. Nothing else faults in that call. */
void fault_let_grow(const struct pager *p, int fd, const struct uffd_msg *m);

/* Who faulted there waits, as others do, until all of them are woken. */
void waiting_add(struct pager_area *waits, uintptr_t page);
void waiting_wake(int uffd, struct pager_area *waits);

/* How much to serve around a fault at page; within one table. */
struct pager_area track_range(struct tracks *t, uintptr_t page);

/* --- pager-copy.c: how a child gets pages -------------------------------- */

#define NO_MEMORY_MS 1		/* when it is short */

/* Copy up to `len` bytes; how far it came, or -EAGAIN: the child's events come first;
 * -ESRCH: it has ended. What of it cannot be had is noted with the child. */
long kid_copy(struct pager *p, struct kid *k, uintptr_t to, uintptr_t from, size_t len);

/* Which pages of up to a table are there, swapped out or not? What is in no mapping is no hole. */
void copies_find_holes(struct pager *p, uintptr_t from, size_t len, unsigned char *ret_there);

/* First of all. Nothing is to be done for a while: memory for that goes. */
void copies_begin(struct pager *p);
void copies_rest(struct pager *p);

/* --- pager-files.c: which descriptors are children's --------------------- */

void file_add(struct pager_shared *s, int fd);
void file_close(struct pager_shared *s, int fd);

/* What is open now is no child's; and all that has come since is, but for one. */
void files_own(struct pager_shared *s);
void files_find(struct pager_shared *s, int but);

/* The first that is not below fd; -1: there is none. */
int file_next(const struct pager_shared *s, int fd);

#define each_file(s, fd)							\
	for (int fd = file_next(s, 0); fd >= 0; fd = file_next(s, fd + 1))

/* --- pager-ranges.c: what a child lacks ---------------------------------- */

/* Why it cannot be had any more; 0: it can. */
static inline unsigned range_lost(const struct kid_range *r)
{
	return r->source & LOST_MASK;
}

/* The first part of [from, to) that is open; of that which is not lost; and of that with
 * addresses as they were at the fork. 0: none is. */
int range_open(const struct kid *k, uintptr_t from, uintptr_t to, struct kid_range *ret_part);
int range_kept(const struct kid *k, uintptr_t from, uintptr_t to, struct kid_range *ret_part);
int range_by_source(const struct kid *k, uintptr_t from, uintptr_t to,
		    struct kid_range *ret_part);

/* It lacks what another does, or nothing yet; and never anything again. */
void range_begin(struct kid *k, struct large_table *large, const struct kid *of);
void range_end(struct kid *k);
void range_shrink(struct kid *k);	/* a large table may be another's again */

/* ... that lay there at the fork. */
void range_add(struct kid *k, uintptr_t start, uintptr_t end, uintptr_t source);

/* Missing pages there are zeros from now on. */
void range_close(struct kid *k, uintptr_t start, uintptr_t end);

/* The child moved [from, from + len) to `to`. */
void range_move(struct kid *k, uintptr_t from, uintptr_t to, size_t len);

/* That cannot be had any more, whether it was open or not; it may be all of its memory. */
void range_lose(struct kid *k, uintptr_t start, uintptr_t end, unsigned why);
void range_lose_all(struct kid *k);

/* --- pager-areas.c: what is known of the program's memory --------------- */

/* As they are now, however they change meanwhile: once at most. */
#define each_area(a)								\
	for (const struct pager_area *a = areas_now(&pager_lists)->at,		\
	     *a##_end = a + areas_now(&pager_lists)->count; a < a##_end; a++)

/* Into the list, or [start, end) out of it. -ENOSPC: there is no room for one more, which a
 * hole in the midst of an area needs too. */
int area_add(struct pager *p, uintptr_t start, uintptr_t end);
int area_remove(struct pager *p, uintptr_t start, uintptr_t end);

/* That is moving, as who has it when the pager is lost is to know. */
void areas_move(struct pager *p, const struct moving *moving);

/* The part of [start, end) that lies in the area of start; 0: in none. Cut *range to the area
 * that page lies in; 0: it lies in none. */
uintptr_t area_part(uintptr_t start, uintptr_t end);
int area_cut(uintptr_t page, struct pager_area *range);

/* It was written, and is to be protected again for the next fork. */
void area_dirty(struct pager *p, uintptr_t start, uintptr_t end);

/* It was emptied. Is there nothing of that in a range? */
void area_vacate(struct pager *p, uintptr_t start, uintptr_t end);
int area_is_solid(const struct pager *p, uintptr_t start, uintptr_t end);

/* A fork finds it empty; that was the last one, or the next one is. */
void area_is_hollow(struct pager *p, uintptr_t start, uintptr_t end);
void area_unfilled(struct pager *p, uintptr_t start, uintptr_t end);
void area_filled(struct pager *p);	/* nothing else is vacated any more */
void area_forks(struct pager *p);	/* the next one comes */

/* How much of a range may be holes that children get as zeros, from its start on; and where the
 * first one begins: at the end, where none does. */
size_t area_hollow(const struct pager *p, uintptr_t start, size_t len);
uintptr_t area_next_hollow(const struct pager *p, uintptr_t start, uintptr_t end);

/* What is known of holes is so where they moved to. */
void area_holes_moved(struct pager *p, uintptr_t from, uintptr_t to, size_t len);

/* The next child has lost it, for it may be gone, or emptied, by then. */
void area_left(struct pager *p, uintptr_t start, uintptr_t end);

/* --- pager-arm.c: the program's memory ---------------------------------- */

/* Lazily: the kernel may take pages of it until then, and tells nobody (MADV_FREE). */
int area_arm(struct pager *p, uintptr_t start, uintptr_t end, int lazily);
void area_leave(struct pager *p, uintptr_t start, uintptr_t end);

/* Children have what they lack of it, or have lost it: by the one, or by kids_leave(). */
void area_give(struct pager *p, uintptr_t start, uintptr_t end);
void area_hand_over(struct pager *p, uintptr_t start, uintptr_t end,
		    int (*give)(struct pager *, uintptr_t, uintptr_t));

/* Before a fork: no holes, and protected what was written since the last. 0, -errno. */
void area_fill(struct pager *p);
int area_rearm(struct pager *p);

/* A fork copies [start, end) from now on: all of its area, where there is no room for a piece. */
struct pager_area area_unwipe(uintptr_t start, uintptr_t end);

/* Fill holes with zeros, not protected, up to *start. -errno: no further. */
int area_zero(struct pager *p, uintptr_t *start, uintptr_t end);

/* It is no more; it is the program's alone; and so is what an area grew by, unseen. */
void area_gone(struct pager *p, uintptr_t start, uintptr_t end);
void area_make_plain(struct pager *p, uintptr_t start, uintptr_t end);
void area_leave_growth(struct pager *p);

/* --- pager-told.c: what the kernel tells of it --------------------------- */

/* One fault or event. 0: there was nothing. */
int parent_event(struct pager *p);
void parent_wake(struct pager *p);	/* who was to wait for an event */

/* Read one in the window, if there is any; children that are known lack nothing that it removes. */
int parent_read(struct pager *p, struct uffd_msg *ret_msg);

/* Is nothing to be told any more? Looked at LOOKS times at once, and every ms. */
#define LOOKS 100
#define SETTLE_MS 5	/* in which whose call was told of goes on */
int parent_settles(const struct pager *p, int ms);

int parent_told(struct pager *p, const struct uffd_msg *m);	/* 1: it forked */

/* --- pager-window.c ------------------------------------------------------ */

/* From the question to the end of the fork. */
void window(struct pager *p);

/* A fault in it. */
void window_put_off(struct pager *p, const struct uffd_msg *m);

/* --- pager.c ------------------------------------------------------------ */

void pager_answer(struct pager *p, int answer);

/* --- pager-keep.c ------------------------------------------------------- */

/* What the pager has done by the keeper, for it may neither open a file nor kill. */
enum keeper_op {
	KEEPER_GROWS,		/* is a thread in mremap(2), where it waits for the pager? */
	KEEPER_MOVES,		/* has a thread of a process moved memory there, and waits for the
				 * pager to read that? Not who moves that page. 2: that cannot be
				 * seen; -errno: who knows */
	KEEPER_MOVES_AWAY,	/* ... there, or from there? */
	KEEPER_WAITS,		/* does a thread wait for the pager to read an event, but that one? */
	KEEPER_KILL_UNMAPPED,	/* end its process, which lacks a page of a userfaultfd's, and */
	KEEPER_KILL_UNREADABLE,	/* ... say why on its standard error */
	KEEPER_LEAVE,		/* (for keeper_end() alone) */
};

struct keeper_question {
	enum keeper_op op;
	int tid, but, uffd;
	uintptr_t page;
	uintptr_t start, end;
};

/* Its answer to KEEPER_KILL_*. */
enum kid_end {
	KID_HAS_IT,		/* nobody lacks that page */
	KID_ENDED,		/* or gets SIGBUS there */
	KID_MOVES,		/* its memory changes: it faults again */
};

/* Make the keeper. 0, -errno. */
int keeper_start(struct pager *p);
void keeper_end(struct pager *p);

/* -EPIPE: it is no more. */
long keeper_ask(const struct pager *p, const struct keeper_question *q);

/* End who has faulted on what is lost, and why; without the keeper too. */
enum kid_end keeper_kill(struct pager *p, int uffd, unsigned lost, const struct uffd_msg *m);

/* --- pager-movers.c ------------------------------------------------------ */

/* The keeper's answer to KEEPER_MOVES and KEEPER_MOVES_AWAY. */
int movers_concern(const struct keeper_question *q);

/* ... and to KEEPER_WAITS, as far as that is seen at once. */
int movers_wait(const struct keeper_question *q);

/* --- pager-jail.c ------------------------------------------------------- */

/* From now on the calling task can do nothing but its job. 0, -errno: it is not locked in. */
int jail_pager(void);
int jail_keeper(void);

#endif
