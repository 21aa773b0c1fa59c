/*
 * cowfork-compare: cowfork against real fork, side by side in one run.
 *
 * Two kinds of process. The coordinator reads the arguments, looks at memory,
 * asks each engine's worker for a burst in turn (A B C A B C ...), gathers what
 * they measured and reports. A worker is the same program executed again, so
 * that its address space is clean; it holds one engine's memory and answers
 * jobs over a socket. `heap` and its kin have a new one for each turn, and so has
 * `server`, whose memory the coordinator watches meanwhile. A wrong byte anywhere ends the run with status 1,
 * whatever else goes wrong with status 2.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef COMPARE_H
#define COMPARE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

enum { STATUS_OK, STATUS_WRONG_BYTE, STATUS_FAILED };

#define TABLE_BYTES ((size_t)2 << 20)	/* what one page-table page maps */
#define LIST_MAX 16			/* sizes in one --size */
#define FORKS_MAX 1000			/* children alive at once in `review` */
#define SAMPLES_MAX 2048		/* in one answer of a worker */
#define CHILD_NO_MEMORY 2		/* status of a child that could not check */
#define OLD_CHILD_FORKS 12
#define FIRST_FORKS 50
#define REVIEW_FORKS 16
#define SERVER_FORKS 4
#define SERVER_FORKS_MAX 100
#define SERVER_THREADS_MAX 64
#define SERVER_RATE_MAX 1000000

/* --- engines: compare-engine.c ------------------------------------------ */

enum engine_id {
	ENGINE_FLOOR, ENGINE_FORK_4K, ENGINE_FORK_THP, ENGINE_STORE,
	ENGINE_STORE_HUGE, ENGINE_IN_PLACE, ENGINE_IN_PLACE_THP, ENGINE_ADOPT,
	ENGINE_ADOPT_AUTO, ENGINE_COUNT,
};

#define ENGINE_BIT(id) (1u << (id))
#define ENGINES_EACH (ENGINE_BIT(ENGINE_COUNT) - 1)
#define ENGINES_ADOPT (ENGINE_BIT(ENGINE_ADOPT) | ENGINE_BIT(ENGINE_ADOPT_AUTO))
#define ENGINES_ALL (ENGINES_EACH & ~ENGINES_ADOPT)	/* with memory of their own */
#define ENGINES_MEMORY (ENGINES_ALL & ~ENGINE_BIT(ENGINE_FLOOR))
#define ENGINES_IN_PLACE (ENGINE_BIT(ENGINE_IN_PLACE) | ENGINE_BIT(ENGINE_IN_PLACE_THP))
#define ENGINES_FLAT (ENGINES_ALL & ~ENGINES_IN_PLACE)	/* of any use that children make */
#define ENGINES_USUAL (ENGINES_ALL & ~ENGINE_BIT(ENGINE_IN_PLACE_THP))

/* The memory calls, as the C library's. */
struct calls {
	void *(*mmap)(void *addr, size_t len, int prot, int flags, int fd, off_t off);
	int (*munmap)(void *addr, size_t len);
	int (*mprotect)(void *addr, size_t len, int prot);
	int (*madvise)(void *addr, size_t len, int advice);
	void *(*mremap)(void *addr, size_t old_len, size_t new_len, int flags);
};

/* What was adopted: bytes, in so many us, and the longest that anybody may have waited
 * for it; the reason why not more, see adopt_reason(). */
struct adopted {
	double bytes, us, hold_us;
	unsigned reason;
};

/* Of an engine that takes in memory which exists already. 0 or -errno. */
struct adopting {
	int (*start)(size_t size);	/* before that much memory is made */
	int (*now)(void);
	void (*look)(struct adopted *ret);	/* so far */
};

const char *adopt_reason(unsigned reason);

/* create, prepare and destroy return 0 or -errno; *ret_why may say more. */
struct engine {
	const char *name, *about;
	size_t page;			/* that its page tables are made for */
	int (*create)(size_t size, void **ret_addr, const char **ret_why);
	int (*prepare)(void);
	pid_t (*fork)(void);
	int (*destroy)(void *addr, size_t size);
	size_t (*huge_bytes)(void);	/* NULL: huge pages are not expected */
	const struct calls *calls;	/* NULL: not in `calls` */
	/* How many thaws there were, what they took, and the longest that anybody may
	 * have waited for one, us; NULL: it knows none. */
	unsigned (*thaws)(double *ret_us, double *ret_hold_us);
	const struct adopting *adopting;	/* NULL: it does not adopt */
};

extern const struct engine engines[ENGINE_COUNT];

/* In a worker, before anything else. 0 or -errno. */
int engine_begin(const struct engine *engine);

/* --- cases: compare-case.c ---------------------------------------------- */

enum case_id {
	CASE_TAX, CASE_CALLS, CASE_HEAP, CASE_HEAP_ADOPT, CASE_HEAP_FORKS, CASE_FIRST, CASE_FORK, CASE_CYCLE,
	CASE_VMPTE, CASE_CHILDREN, CASE_OLD_CHILD, CASE_CHILD_READ, CASE_CHILD_WRITE,
	CASE_PARENT_WRITE, CASE_REVIEW, CASE_SERVER, CASE_COUNT,
};

#define CASE_BIT(id) (1u << (id))

enum case_flags {
	CASE_MATRIX = 1,	/* a row for each share and order of pages */
	CASE_BURST = 2,		/* repeated within a round, and checked after it */
	CASE_FRESH = 4,		/* new memory for every round */
	CASE_RAW = 8,		/* no cow_prepare() before it */
	CASE_DIRTY = 16,	/* needs new memory, leaves it changed */
	CASE_NO_MEMORY = 32,	/* makes and frees memory of its own */
	CASE_EXTRA = 64,	/* only when asked for by name */
	CASE_METERED = 128,	/* a worker of its own, its memory watched */
	CASE_ALONE = 256,	/* a worker of its own */
	CASE_PARTS = 512,	/* a cell for each part */
};

enum order { ORDER_LINEAR, ORDER_RANDOM };

/* What a server is put through. */
struct load {
	unsigned forks, threads;
	unsigned rate;		/* writes a second of each thread */
	double before_us;	/* without any fork */
	double gap_us;		/* from a child's end to the next fork */
	double after_us;	/* from the last child's end */
};

/* What is measured at one size: a case, in the matrix which pages, and of a
 * server or beside writers its load. */
struct cell {
	enum case_id id;
	enum order order;
	unsigned permille;	/* of the pages that are touched */
	unsigned children;	/* alive at once */
	unsigned part;		/* of CASE_PARTS: the row that it gives */
	struct load load;
};

#define CELLS_MAX 64

struct job;
struct reply;
struct bench;
struct options;

struct case_kind {
	const char *name, *about;
	unsigned engines;	/* bits: those that can take part */
	unsigned usual;		/* bits: those that do when nobody says */
	unsigned flags;
	unsigned parts;		/* rows that a cell gives */
	int (*measure)(struct bench *b, const struct job *job, struct reply *reply);
};

extern const struct case_kind cases[CASE_COUNT];
extern const unsigned shares_permille[5];

/* `calls`: a part is a call on a kind of memory; first those that stay the
 * kernel's under every engine. compare-calls.c */
#define CALL_COUNT 5
#define CALLS_OFF_PARTS (3 * CALL_COUNT)
#define CALLS_PARTS (5 * CALL_COUNT)
const char *calls_part(unsigned part, char *buf, size_t size);

/* `heap`: a part is a kind of memory; `heap-adopt`: alone, or beside writers at a rate
 * or without a pause; `heap-forks`: how many forks. compare-heap.c */
#define HEAP_KINDS 5
#define HEAP_WRITERS 2
#define HEAP_BUSY 2		/* part of `heap-adopt` */
#define HEAP_FORKS 4
extern const unsigned heap_forks[HEAP_FORKS];
const char *heap_part(enum case_id id, unsigned part, char *buf, size_t size);

/* `server`: part 0 is before the first fork, then one for each fork, then: */
#define SERVER_WHOLE (SERVER_FORKS_MAX + 1)

/* The cells of these cases in the order of running; returns how many. */
size_t cells_make(unsigned case_bits, const struct options *opt, struct cell *ret_cells);
/* What a row touches or which fork it is: "0.1% random", "fork 3", "-". */
const char *cell_detail(const struct cell *cell, unsigned part, char *buf, size_t size);
/* Position of a cell among all cells, for sorting. */
unsigned cell_rank(const struct cell *cell);

/* --- the protocol -------------------------------------------------------- */

enum op { OP_FILL, OP_PREPARE, OP_RUN, OP_CHECK, OP_FREE };

struct job {
	enum op op;
	size_t size;
	uint64_t seed;
	struct cell cell;
	unsigned reps;
	int check;		/* look at everything; times mean nothing then */
};

/* us of a write: from when it was due, and the store alone. */
enum latency {
	LATENCY_P50, LATENCY_P90, LATENCY_P99, LATENCY_P999, LATENCY_MAX,
	LATENCY_STORE_MAX, LATENCY_COUNT,
};

enum metric {
	METRIC_CALL,		/* us of the fork call in the parent; `calls`: of a
				 * single memory call */
	METRIC_CHILD,		/* us from that call until the child is reaped */
	METRIC_CYCLE,		/* us of all that happens from fork to fork; `calls`:
				 * of one memory call in a burst */
	METRIC_VMPTE,		/* KiB of page tables in the child */

	/* of `server`: */
	METRIC_AT,		/* us from the start of the load to the fork */
	METRIC_DURING,		/* writes from the fork until the child is reaped: */
	METRIC_REST = METRIC_DURING + LATENCY_COUNT,	/* from then to the next */
	METRIC_WRITES_DUE = METRIC_REST + LATENCY_COUNT,
	METRIC_WRITES_DONE,
	METRIC_WRITES_SHARE,	/* done / due */
	METRIC_MEMORY_BEFORE,	/* bytes before the first fork */
	METRIC_MEMORY_PEAK,	/* ... the most from then on */
	METRIC_MEMORY_AFTER,	/* ... at the end */
	METRIC_MEMORY_LEFT,	/* after / before */
	METRIC_CPU,		/* us of processor time of the worker, without children */
	METRIC_THAW,		/* us of a thaw, mean */
	METRIC_HOLD,		/* ... the longest that part of memory was held for one */

	/* of `heap` and its kin: */
	METRIC_FIRST,		/* us of the first fork until the child is reaped */
	METRIC_ADOPTED,		/* bytes */
	METRIC_REASON,		/* why not more, or 0 */
	METRIC_ERROR,		/* errno of adoption, or 0 */
	METRIC_RATE,		/* GiB adopted in a second */
	METRIC_STALL,		/* us that a writer stood still at most, while it ran */
	METRIC_STALL_BEFORE,	/* ... before */
	METRIC_COUNT,
};

struct sample {
	uint32_t part;
	uint32_t metric;
	double value;
};

struct wrong {
	uint64_t page, word, expected, found;
	int in_child;
};

struct reply {
	int status;		/* one of STATUS_... */
	uint32_t n;
	uint64_t huge;		/* OP_PREPARE: bytes that lie in huge pages */
	double begin, end;	/* `server`: clock_us() of the load */
	struct wrong wrong;
	char text[200];		/* STATUS_FAILED: why */
	struct sample sample[SAMPLES_MAX];
};

/* --- worker side: compare-memory.c, compare-child.c, compare-measure.c, --- */
/* --- compare-tax.c, compare-calls.c, compare-heap.c, compare-server.c and those
 * --- that their headers name, compare-worker.c ----------------------------- */

struct list {
	const uint32_t *page;
	size_t count;
};

struct memory {
	unsigned char *base;
	size_t size, page_size, pages;
	uint64_t seed;
	struct wrong *wrong;	/* first thing of the side mapping, shared */
	size_t side_size;
	uint32_t *order[2];	/* page numbers by enum order */
	uint16_t *now, *then;	/* version that each page carries; a snapshot */
	uint16_t version;	/* last one that the parent wrote */
};

int memory_fill(struct memory *m, void *base, size_t size, uint64_t seed);
void memory_forget(struct memory *m);
struct list memory_list(const struct memory *m, enum order order, unsigned permille);
struct list memory_slice(const struct memory *m, struct list list, size_t nth);
/* Each returns 0, or -1 with *m->wrong filled. */
int memory_read(const struct memory *m, struct list list);
int memory_write(const struct memory *m, struct list list, uint16_t version);
int memory_read_versions(const struct memory *m, struct list list);
int memory_check(const struct memory *m, const uint16_t *versions);
int memory_check_own(const struct memory *m, struct list own, uint16_t version);
/* A new version for the parent to write, and that it has written it. */
uint16_t memory_next(struct memory *m);
void memory_commit(struct memory *m, struct list list);
void memory_snapshot(struct memory *m);
uint64_t memory_pattern(uint64_t seed, uint64_t page, unsigned slot, unsigned version);
/* The sum of all words of a page that nobody has written since it was filled,
 * and the words that are zero in each. */
uint64_t memory_page_sum(const struct memory *m, size_t page);
#define MEMORY_FREE_WORD 2

struct bench {
	const struct engine *engine;
	struct memory memory;
	pid_t pid;		/* of the worker */
	int go[2];		/* pipe: one byte lets one blocked child go */
};

double clock_us(void);
void reply_add(struct reply *reply, unsigned part, enum metric metric, double value);
int reply_fail(struct reply *reply, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
int reply_wrong(struct reply *reply, const struct memory *m);
/* New memory with its pattern; back it goes, looked at. 0, or -1 with *reply. */
int bench_fill(struct bench *b, const struct job *job, struct reply *reply);
int bench_free(struct bench *b, struct reply *reply);

/* A child runs body, which returns 0, or -1 with a wrong byte noted. Its pid, or
 * -1 with *reply telling why. compare-child.c */
typedef int child_body(void *arg);
pid_t child_start(struct bench *b, struct reply *reply, child_body *body, void *arg);
/* 0 when it found nothing wrong, else -1 with *reply telling what. */
int child_end(const struct bench *b, struct reply *reply, pid_t pid);

/* Each measures job->reps times; 0, or -1 with *reply telling why. */
int measure_fork(struct bench *b, const struct job *job, struct reply *reply);
int measure_cycle(struct bench *b, const struct job *job, struct reply *reply);
int measure_vmpte(struct bench *b, const struct job *job, struct reply *reply);
int measure_first(struct bench *b, const struct job *job, struct reply *reply);
int measure_child_read(struct bench *b, const struct job *job, struct reply *reply);
int measure_child_write(struct bench *b, const struct job *job, struct reply *reply);
int measure_parent_write(struct bench *b, const struct job *job, struct reply *reply);
int measure_children(struct bench *b, const struct job *job, struct reply *reply);
int measure_old_child(struct bench *b, const struct job *job, struct reply *reply);
int measure_review(struct bench *b, const struct job *job, struct reply *reply);
int measure_tax(struct bench *b, const struct job *job, struct reply *reply);
int measure_calls(struct bench *b, const struct job *job, struct reply *reply);
int measure_heap(struct bench *b, const struct job *job, struct reply *reply);
int measure_heap_adopt(struct bench *b, const struct job *job, struct reply *reply);
int measure_heap_forks(struct bench *b, const struct job *job, struct reply *reply);
int measure_server(struct bench *b, const struct job *job, struct reply *reply);

/* Let this process run on all processors that are allowed, not on one. */
void worker_unpin(void);

int worker_main(const char *engine_name);

/* --- coordinator: compare-spawn.c ---------------------------------------- */

#define WORKER_OPTION "--worker="
#define WORKER_FD 3

struct worker {
	enum engine_id engine;
	pid_t pid;		/* 0: not started */
	int fd;
	size_t filled;		/* bytes that it holds */
	int prepared, dirty;
	unsigned reps;		/* of the current case within a turn */
	struct cell last;	/* that it ran */
};

struct worker *worker_get(enum engine_id id);
void worker_start(struct worker *w);	/* unless it runs */
void worker_stop(struct worker *w);
/* Have a job done, by a worker that is started when it was not yet. What the
 * worker found wrong ends the program. look(arg) is called about every 50 ms
 * until the answer is there. */
const struct reply *worker_watch(struct worker *w, const struct job *job,
				 void (*look)(void *arg), void *arg);
const struct reply *worker_ask(struct worker *w, const struct job *job);

/* --- compare-meter.c ------------------------------------------------------ */

struct point {
	double at_us;		/* from the start of the load */
	double bytes;
};

/* Memory over time, of the last turn of an engine at a size. */
struct curve {
	enum engine_id engine;
	size_t size;
	int cgroup;		/* of a group of the worker's own, else the machine's */
	struct point *point;
	size_t n, room;
};

/* worker_ask() of a worker that is started for it and ended after it, with its
 * memory watched and added to the samples. */
const struct reply *meter_ask(struct worker *w, const struct job *job);
const struct curve *meter_curve(enum engine_id engine, size_t size);	/* or NULL */
void meter_close(void);			/* once no worker runs any more */

/* --- compare-machine.c --------------------------------------------------- */

uint64_t machine_available(void);	/* bytes that a run may use */
uint64_t machine_reserve(void);		/* bytes kept free on top of that */
uint64_t machine_used(void);		/* bytes that neither are free nor only a cache */
/* Number after "key" in a file of lines "key ... number"; the whole file's
 * number when key is NULL. fallback when there is none. */
uint64_t file_number(const char *path, const char *key, uint64_t fallback);
void machine_print(FILE *to, uint64_t seed);
const char *size_string(uint64_t bytes, char *buf, size_t size);
/* One message on stderr, then the end of the program. */
void die(int status, const char *fmt, ...)
	__attribute__((format(printf, 2, 3), noreturn));
void warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* --- compare-rows.c ------------------------------------------------------ */

struct value {
	double value;
	unsigned round;
};

struct series {
	struct value *v;
	size_t n, room;
};

struct row {
	struct cell cell;
	unsigned part;
	enum engine_id engine;
	size_t size;
	struct series series[METRIC_COUNT];
};

struct rows {
	struct row *row;
	size_t n, room;
};

void rows_add(struct rows *rows, const struct row *key, enum metric metric,
	      unsigned round, double value);
void rows_free(struct rows *rows);
void rows_sort(struct rows *rows);
const struct row *rows_find(const struct rows *rows, const struct row *key);
double series_quantile(struct series *s, double q);
double series_mean(const struct series *s);
/* Median of one round; NAN when it has none. */
double series_round(const struct series *s, unsigned round);
unsigned series_rounds(const struct series *s);
/* The series that stands for a row: its forks, or for `tax` its passes. */
struct series *row_headline(const struct row *row);

/* --- compare-plan.c, compare-run.c --------------------------------------- */

struct plan {
	size_t size[LIST_MAX];
	size_t sizes;
	unsigned cases;		/* bits */
	unsigned engines;	/* bits; 0: what is usual for each case */
};

struct options {
	struct plan plan;
	unsigned rounds, forks;	/* 0: as many as a case can bear; as is usual for it */
	struct load load;	/* of `server` */
	uint64_t seed;
	int json, goals, quick;
	const char *json_file, *plot_file;
};

/* The engines of a case; those of any case. */
unsigned plan_engines(const struct plan *plan, enum case_id id);
unsigned plan_all_engines(const struct plan *plan);
/* Bytes that these engines need side by side for a cell. */
uint64_t plan_need(const struct cell *cell, unsigned engine_bits, size_t size);
/* End the program when something cannot run even one engine at a time. */
void plan_refuse(const struct plan *plan, const struct options *opt);

/* Run it all; done() is called after each size. */
void run_plan(const struct plan *plan, const struct options *opt, struct rows *rows,
	      void (*done)(struct rows *rows, size_t size));

/* --- arguments and reports ----------------------------------------------- */

void options_parse(int argc, char **argv, struct options *ret_opt);

int colour(FILE *to);		/* may colours be used there? */
void table_print(struct rows *rows, size_t size, FILE *to);
void review_print(struct rows *rows, size_t size, FILE *to);
void server_print(struct rows *rows, size_t size, FILE *to);
void json_print(struct rows *rows, size_t size, FILE *to);	/* size 0: all */

extern const struct plan goal_plans[];
extern const size_t goal_plan_count;
void goals_print(const struct rows *rows, FILE *to);

void plot_probe(const char *file);	/* end the program when it cannot be drawn */
void plot_write(struct rows *rows, enum case_id id, const char *file);
extern const char *const plot_colours[ENGINE_COUNT];
void plot_server_draw(struct rows *rows, FILE *to);	/* what gnuplot reads */

#endif
