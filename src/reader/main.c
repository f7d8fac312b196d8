/*
 * main.c: the reader program's start.
 *
 *		guest_context_reader [PARENT]		fd 0 = the socket of frame.h
 *
 * Started by an ingest worker or a session of the server, never by hand. It must not outlive its parent,
 * must not keep what it may have inherited, and must not leave secrets behind in a core file. PARENT is the
 * pid of who started it, so that a parent that died before the death signal was set is noticed.
 */
#include "reader.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREAD_STACK	(512 * 1024)

/* Beyond what is mapped already: stacks of a broker's thread each, and one record that is large. */
#define ALLOWANCE		((uint64) 96 * 1024 * 1024)

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

static void
close_inherited(void)
{
#ifdef SYS_close_range
	if (syscall(SYS_close_range, 3u, ~0u, 0u) == 0)
		return;
#endif
	for (int fd = 3, max = (int) Min(sysconf(_SC_OPEN_MAX), 65536); fd < max; fd++)
		close(fd);
}

static void
reset_signals(void)
{
	sigset_t	none;

	for (int sig = 1; sig < NSIG; sig++)
		if (sig != SIGKILL && sig != SIGSTOP)
			signal(sig, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void
harden(void)
{
	struct rlimit no_core = {0, 0};
	pthread_attr_t attr;

	setrlimit(RLIMIT_CORE, &no_core);
#ifndef SANITIZED
	prctl(PR_SET_DUMPABLE, 0);
#endif

	/* the library has a thread per broker; with a stack and an arena each they would fill the address space */
	mallopt(M_ARENA_MAX, 1);
	if (pthread_attr_init(&attr) == 0)
	{
		pthread_attr_setstacksize(&attr, THREAD_STACK);
		pthread_setattr_default_np(&attr);
		pthread_attr_destroy(&attr);
	}
}

/*
 * From here on, memory beyond this and an allowance cannot be had: a batch that unpacks to hundreds of
 * megabytes ends this process and nothing else. 0 = no limit.
 */
void
gc_limit_memory(uint64 memory)
{
#ifndef SANITIZED				/* its shadow memory needs terabytes of addresses */
	struct rlimit limit;
	unsigned long pages = 0;
	FILE	   *statm = fopen("/proc/self/statm", "r");

	if (statm != NULL)
	{
		if (fscanf(statm, "%lu", &pages) != 1)
			pages = 0;
		fclose(statm);
	}
	if (memory == 0 || memory > ((uint64) 1 << 40))
		return;
	limit.rlim_cur = limit.rlim_max = (rlim_t) (pages * (uint64) sysconf(_SC_PAGESIZE) + memory + ALLOWANCE);
	setrlimit(RLIMIT_AS, &limit);
#endif
}

int
main(int argc, char **argv)
{
	int			type;
	socklen_t	size = sizeof(type);

	if (getsockopt(STDIN_FILENO, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM || argc > 2)
	{
		fprintf(stderr, "guest_context_reader is started by the server, with a socket as its standard input\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc == 2 && getppid() != (pid_t) strtol(argv[1], NULL, 10))
		return 1;
	close_inherited();
	reset_signals();
	setsid();					/* no terminal's signals; fails where who started us has done it */
	harden();
	return gc_loop_run();
}
