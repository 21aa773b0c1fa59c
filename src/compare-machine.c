/*
 * What the tool says and knows about the machine: memory that a run may use,
 * the line that heads every report, and the way to end with a message.
 *
 * SPDX-License-Identifier: MIT
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "compare.h"
#include "cowfork.h"

#define BUSY 0.7		/* load from which a run says so */

/* --- messages ----------------------------------------------------------- */

static void __attribute__((format(printf, 1, 0))) say(const char *fmt, va_list ap)
{
	fflush(stdout);
	if (isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);	/* the progress line */
	fputs("cowfork-compare: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

void warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

void die(int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	exit(status);
}

const char *size_string(uint64_t bytes, char *buf, size_t size)
{
	static const char unit[] = "KMGT";
	double value = (double)bytes / 1024;
	int i = 0;

	for (; value >= 1024 && i < 3; i++)
		value /= 1024;
	snprintf(buf, size, "%.4g%c", value, unit[i]);
	return buf;
}

/* --- memory ------------------------------------------------------------- */

uint64_t file_number(const char *path, const char *key, uint64_t fallback)
{
	FILE *f = fopen(path, "re");
	char line[256];
	uint64_t value = fallback;
	size_t len = key ? strlen(key) : 0;

	while (f && fgets(line, sizeof(line), f))
		if (!key || strncmp(line, key, len) == 0) {
			if (sscanf(line + len, "%" SCNu64, &value) != 1)
				value = fallback;
			break;
		}
	if (f)
		fclose(f);
	return value;
}

static uint64_t meminfo(const char *key)
{
	return file_number("/proc/meminfo", key, 0) << 10;
}

/* What this process's memory cgroup (v2) leaves; no limit: UINT64_MAX. */
static uint64_t cgroup_room(void)
{
	char line[512] = "", dir[600], path[700];
	FILE *f = fopen("/proc/self/cgroup", "re");
	uint64_t max, used;

	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, "0::", 3) == 0)
			break;
	if (f)
		fclose(f);
	if (strncmp(line, "0::", 3) != 0)
		return UINT64_MAX;
	line[strcspn(line, "\n")] = '\0';
	snprintf(dir, sizeof(dir), "/sys/fs/cgroup%s", line + 3);
	snprintf(path, sizeof(path), "%s/memory.max", dir);
	max = file_number(path, NULL, UINT64_MAX);
	snprintf(path, sizeof(path), "%s/memory.current", dir);
	used = file_number(path, NULL, 0);
	return max == UINT64_MAX ? max : max > used ? max - used : 0;
}

uint64_t machine_reserve(void)
{
	return meminfo("MemTotal:") / 16;
}

uint64_t machine_used(void)
{
	return meminfo("MemTotal:") + meminfo("Shmem:") - meminfo("MemFree:") -
		meminfo("Buffers:") - meminfo("Cached:");
}

uint64_t machine_available(void)
{
	uint64_t available = meminfo("MemAvailable:"), room = cgroup_room();
	uint64_t reserve = machine_reserve();

	if (!available)
		die(STATUS_FAILED, "/proc/meminfo does not say how much memory is available");
	available = available > reserve ? available - reserve : 0;
	return available < room ? available : room;
}

/* --- the line at the top ------------------------------------------------ */

static void cpu_name(char *buf, size_t size)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[256], *colon;

	snprintf(buf, size, "unknown CPU");
	while (f && fgets(line, sizeof(line), f)) {
		colon = strchr(line, ':');
		if (strncmp(line, "model name", 10) != 0 || !colon)
			continue;
		line[strcspn(line, "\n")] = '\0';
		snprintf(buf, size, "%s", colon + 1 + strspn(colon + 1, " "));
		break;
	}
	if (f)
		fclose(f);
}

/* The word in brackets: "always [madvise] never". */
static void thp_setting(char *buf, size_t size)
{
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	char line[128] = "", *open, *close;

	if (f && !fgets(line, sizeof(line), f))
		line[0] = '\0';
	if (f)
		fclose(f);
	open = strchr(line, '[');
	close = open ? strchr(open, ']') : NULL;
	if (close)
		snprintf(buf, size, "%.*s", (int)(close - open - 1), open + 1);
	else
		snprintf(buf, size, "none");
}

void machine_print(FILE *to, uint64_t seed)
{
	char cpu[256], thp[64], total[32], available[32];
	double load = 0;
	struct utsname u;

	uname(&u);
	cpu_name(cpu, sizeof(cpu));
	thp_setting(thp, sizeof(thp));
	(void)getloadavg(&load, 1);
	fprintf(to, "%s %s %s, %ld x %s, load %.1f, %s (%s available), THP %s, cowfork %s, seed %" PRIu64 "\n",
		u.sysname, u.release, u.machine, sysconf(_SC_NPROCESSORS_ONLN), cpu, load,
		size_string(meminfo("MemTotal:"), total, sizeof(total)),
		size_string(meminfo("MemAvailable:"), available, sizeof(available)),
		thp, cow_version(), seed);
	fflush(to);
	if (load >= BUSY)
		warn("the machine is busy (load %.1f): who waits for a processor is a long call "
		     "rather than a short one, so ratios flatter cowfork", load);
}
