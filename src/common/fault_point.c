/*
 * fault_point.c: a process comes past a fault point, see fault_point.h.
 *
 * Any thread of the reader may. Costs one open() that fails while nothing is armed.
 */
#include "common.h"
#include "fault_point.h"

#ifdef GC_FAULT_POINTS

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#ifdef FRONTEND
#define SIDE	"reader"
#else
#define SIDE	"server"
#endif

static char action[16];

/* The server's processes stay in the data directory, so that is where a reader's parent is. */
static void
fault_file(char *path, size_t size)
{
#ifdef FRONTEND
	snprintf(path, size, "/proc/%d/cwd/guest_context.fault", (int) getppid());
#else
	strlcpy(path, "guest_context.fault", size);
#endif
}

/* Is this point armed, and our turn? Then it is not armed any more. */
static bool
claim(const char *name, const char *file, int fd)
{
	char		text[256];
	char		hit[64];
	char		armed[200];
	int			count;
	ssize_t		len = read(fd, text, sizeof(text) - 1);

	if (len <= 0)
		return false;
	text[len] = '\0';
	if (sscanf(text, "%d %15s %199[^\n]", &count, action, armed) != 3 || strcmp(armed, name) != 0)
		return false;
	if (count > 1)
	{
		len = snprintf(text, sizeof(text), "%0*d %s %s\n", (int) strcspn(text, " "), count - 1, action, armed);
		(void) !pwrite(fd, text, len, 0);
		return false;
	}
	snprintf(hit, sizeof(hit), "%s.hit", file);
	if (rename(file, hit) != 0)
		return false;
	len = snprintf(text, sizeof(text), "%d\n", (int) getpid());
	return ftruncate(fd, 0) == 0 && pwrite(fd, text, len, 0) == len;
}

bool
gc_fault_due(const char *name)
{
	char		file[56];
	int			error = errno;
	bool		due = false;
	int			fd;

	fault_file(file, sizeof(file));
	fd = open(file, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
	{
		due = claim(name, file, fd);
		close(fd);
	}
	errno = error;
	return due;
}

void
gc_fault_act(void)
{
	if (strcmp(action, "kill") == 0)
		kill(getpid(), SIGKILL);
	else if (strcmp(action, "stop") == 0)
		raise(SIGSTOP);
	else
	{
#ifdef FRONTEND
		_exit(3);
#else
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("a fault point was reached")));
#endif
	}
}

void
gc_fault_frame(char type, const char *what)
{
	char		name[64];

	snprintf(name, sizeof(name), SIDE ": frame %c %s", type, what);
	GC_FAULT(name);
}

#endif
