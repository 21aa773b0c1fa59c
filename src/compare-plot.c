/*
 * The plot: fork latency against size on log axes, a line for each engine with
 * p10 to p90 as bars, or what compare-plot-server.c draws; as SVG by a gnuplot
 * that reads a script and its data from a pipe. The file is opened here, so no
 * name needs quoting.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "compare.h"

extern char **environ;

static const char script[] =
	"set terminal svg size 760,480 background rgb 'white' font 'sans-serif,13'\n"
	"set logscale xy\n"
	"set xlabel 'memory'\n"
	"set ylabel 'fork latency, us (median, p10 to p90)'\n"
	"set grid\n"
	"set key left top\n";

const char *const plot_colours[ENGINE_COUNT] = {
	"#888888", "#d62728", "#ff7f0e", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b",
};

/* --- gnuplot ------------------------------------------------------------ */

/* Start gnuplot with these as stdin and stdout (-1: its own); its pid. */
static pid_t start(char *argument, int in, int out)
{
	posix_spawn_file_actions_t actions;
	char name[] = "gnuplot";
	char *argv[] = { name, argument, NULL };
	pid_t pid;
	int ret;

	posix_spawn_file_actions_init(&actions);
	if (in >= 0)
		posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	ret = posix_spawnp(&pid, name, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (ret)
		die(STATUS_FAILED, "--plot: gnuplot cannot be started: %s", strerror(ret));
	return pid;
}

static void finish(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (status)
		die(STATUS_FAILED, "--plot: gnuplot failed");
}

void plot_probe(const char *file)
{
	char version[] = "--version";
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int out = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

	if (out < 0)
		die(STATUS_FAILED, "--plot: %s: %s", file, strerror(errno));
	close(out);
	finish(start(version, null, null));
	close(null);
}

/* --- the drawing -------------------------------------------------------- */

static int wanted(const struct row *row, int engine)
{
	return row->cell.id == CASE_FORK && row->engine == (enum engine_id)engine;
}

static int data(const struct rows *rows, int engine, FILE *to)
{
	int n = 0;

	for (size_t i = 0; i < rows->n; i++) {
		struct row row = rows->row[i];
		struct series *s = &row.series[METRIC_CALL];

		if (!wanted(&row, engine))
			continue;
		if (!n++)
			fprintf(to, "$data%d << EOD\n", engine);
		fprintf(to, "%zu %.3f %.3f %.3f\n", row.size, series_quantile(s, 0.5),
			series_quantile(s, 0.1), series_quantile(s, 0.9));
	}
	if (n)
		fputs("EOD\n", to);
	return n;
}

/* A tic at each size that was run. */
static void tics(const struct rows *rows, FILE *to)
{
	size_t size = 0, first = 0;
	char text[32];

	for (size_t i = 0; i < rows->n; i++) {
		if (rows->row[i].cell.id != CASE_FORK || rows->row[i].size == size)
			continue;
		size = rows->row[i].size;
		fprintf(to, "%s '%s' %zu", first ? "," : "set xtics (",
			size_string(size, text, sizeof(text)), size);
		first = first ? first : size;
	}
	fprintf(to, ")\nset xrange [%f:%f]\n", (double)first / 1.5, (double)size * 1.5);
}

static void draw(const struct rows *rows, FILE *to)
{
	int drawn[ENGINE_COUNT], any = 0;

	fputs(script, to);
	tics(rows, to);
	for (int id = 0; id < ENGINE_COUNT; id++)
		drawn[id] = data(rows, id, to);
	for (int id = 0; id < ENGINE_COUNT; id++)
		if (drawn[id])
			fprintf(to, "%s $data%d using 1:2:3:4 with yerrorbars lw 1 pt 7 ps 0.6 "
				"lc rgb '%s' notitle, '' using 1:2 with linespoints lw 2 pt 7 "
				"ps 0.6 lc rgb '%s' title '%s'", any++ ? "," : "plot", id,
				plot_colours[id], plot_colours[id], engines[id].name);
	fputs("\n", to);
}

void plot_write(struct rows *rows, enum case_id id, const char *file)
{
	int out = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), pipes[2];
	FILE *to;
	pid_t pid;

	if (out < 0 || pipe2(pipes, O_CLOEXEC) < 0)
		die(STATUS_FAILED, "--plot: %s: %s", file, strerror(errno));
	pid = start(NULL, pipes[0], out);
	close(pipes[0]);
	close(out);
	to = fdopen(pipes[1], "w");
	if (!to)
		die(STATUS_FAILED, "--plot: %s", strerror(errno));
	signal(SIGPIPE, SIG_IGN);	/* gnuplot's status tells */
	if (id == CASE_SERVER)
		plot_server_draw(rows, to);
	else
		draw(rows, to);
	fclose(to);
	finish(pid);
}
