/*
 * reader_process.c: the reader program as a child of this process.
 *
 * Called by ingest workers and by the session functions of server_verbs.c. The library that
 * talks to Kafka can abort, be fed memory bombs and starts threads; in a program of its own it ends
 * alone. That program gets one socket, its standard input, and nothing else of us: no
 * descriptors (a backend holds data files, WAL and other sockets), no environment, no signal masks.
 * Secrets go through the socket, never through arguments or environment, which others can read.
 *
 * How it ends. gc_reader_stop in good order. Otherwise whatever comes first: its memory context is reset
 * or deleted, which an ERROR brings about (a reset callback kills and reaps); this process exits
 * (before_shmem_exit does the same); this process is gone without a word (the kernel kills the
 * child, and its socket ends). SIGCHLD stays at its default, nobody else waits for our children.
 *
 * fork() and not fork_process(), which prepares a child that stays a server process. Between fork
 * and exec nothing of the server's runs: signals are blocked before, so no handler of ours can touch
 * shared memory, and on failure the child leaves by _exit after telling which step failed through a pipe
 * that a successful exec closes.
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#include "lib/ilist.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "common/fault_point.h"
#include "reader_process.h"
#include "server_options.h"

#define PROGRAM			"guest_context_reader"
#define READ_BYTES		(64 * 1024)
#define READS_AT_ONCE	32		/* then others have their turn */
#define ROOM_KEEP		(1024 * 1024)	/* what one huge frame needed is given back */
#define STOP_MS			1000	/* to end in good order */
#define DEATH_MS		1000	/* from the end of its stream to its end */
#define CONFIGURE_MS	10000	/* to take its options */
#define SAID_BYTES		400		/* of one text of the library */
#define CHILD_SOCKET	STDIN_FILENO
#define CHILD_REPORT	3		/* where it says that it could not start, until exec */

/* A reader with what nobody else needs to know of it. */
typedef struct Process
{
	GcReader	reader;			/* first: a GcReader is a Process */
	dlist_node	node;			/* in `running`, while pid is set */
	MemoryContext context;		/* holds this, and everything of it */
	MemoryContextCallback at_reset;
	int			status;			/* of waitpid, once reaped */
	bool		reaped;
	bool		counted;		/* among the descriptors of this process */
} Process;

/* What a child says when it cannot become the reader. */
typedef struct Report
{
	int			step;			/* of steps[] */
	int			error;			/* errno */
} Report;

static const char *const steps[] = {"prepare", "execute"};

static dlist_head running = DLIST_STATIC_INIT(running);

/*
 * The child. Only what is safe between fork and exec. Nothing here returns to what forked.
 */

static void
child_fail(int step)
{
	Report		report = {.step = step, .error = errno};

	if (write(CHILD_REPORT, &report, sizeof(report)) != sizeof(report))
		_exit(2);
	_exit(1);
}

static void
close_from(int first)
{
	struct rlimit limit;
	int			end = 65536;

#if defined(__linux__) && defined(SYS_close_range)
	if (syscall(SYS_close_range, first, ~0U, 0) == 0)
		return;
#endif
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < 1024 * 1024)
		end = limit.rlim_cur;
	for (int fd = first; fd < end; fd++)
		close(fd);
}

static void
child_default_signals(void)
{
	struct sigaction action;
	sigset_t	none;

	memset(&action, 0, sizeof(action));
	action.sa_handler = SIG_DFL;
	for (int number = 1; number < NSIG; number++)
		sigaction(number, &action, NULL);	/* fails for those that cannot be changed */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* When memory gets short the reader goes first: it is started again, the server is not. */
static void
child_volunteer(void)
{
#ifdef __linux__
	int			fd = open("/proc/self/oom_score_adj", O_WRONLY);

	if (fd >= 0)
	{
		if (write(fd, "500", 3) < 0)
		{
			 /* then not */
		}
		close(fd);
	}
#endif
}

static void
child_main(const char *path, pid_t parent, int socket, int report)
{
	/* one arena: each costs 64 MB of the address space that the reader allows itself */
	char	   *environment[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", "MALLOC_ARENA_MAX=1", NULL};
	char	   *arguments[] = {PROGRAM, NULL};
	struct rlimit no_core = {0, 0};
	int			null;

	/* out of the way of the numbers that they are going to have */
	socket = fcntl(socket, F_DUPFD, 10);
	report = fcntl(report, F_DUPFD, 10);
	if (socket < 0 || report < 0 || dup2(report, CHILD_REPORT) < 0)
		_exit(2);
	fcntl(CHILD_REPORT, F_SETFD, FD_CLOEXEC);
	null = open("/dev/null", O_RDWR);
	if (null < 0 || dup2(socket, CHILD_SOCKET) < 0 ||
		dup2(null, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0)
		child_fail(0);
	close_from(CHILD_REPORT + 1);
	child_default_signals();
	child_volunteer();
	if (setsid() < 0 || chdir("/") != 0 || setrlimit(RLIMIT_CORE, &no_core) != 0)
		child_fail(0);
#ifdef __linux__
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
		child_fail(0);
#endif
	/* it may have died before the kernel was told */
	if (getppid() != parent)
		_exit(2);
	execve(path, arguments, environment);
	child_fail(1);
}

/*
 * Ending
 */

/* Takes its exit status if it has one; true when it is gone. */
static bool
reap(Process *process, bool wait)
{
	pid_t		result;

	if (process->reaped)
		return true;
	do
		result = waitpid(process->reader.pid, &process->status, wait ? 0 : WNOHANG);
	while (result < 0 && errno == EINTR);
	if (result == 0)
		return false;
	if (result < 0)
		process->status = 0;	/* somebody else has taken it */
	process->reaped = true;
	return true;
}

/* The same, waiting for up to so many milliseconds. Nothing here may raise an error. */
static bool
reap_within(Process *process, int milliseconds)
{
	for (int waited = 0, step = 1; waited < milliseconds; waited += step, step = Min(step + 1, 20))
	{
		if (reap(process, false))
			return true;
		pg_usleep(step * 1000L);
	}
	return reap(process, false);
}

static void
close_socket(Process *process)
{
	if (process->reader.socket != PGINVALID_SOCKET)
		close(process->reader.socket);
	process->reader.socket = PGINVALID_SOCKET;
	if (process->counted)
		ReleaseExternalFD();
	process->counted = false;
}

/* Nothing of it is left afterwards but memory. */
static void
end_process(Process *process)
{
	close_socket(process);
	if (process->reader.pid == 0)
		return;
	if (!process->reaped)
	{
		kill(process->reader.pid, SIGKILL);
		reap(process, true);
	}
	process->reader.pid = 0;
	dlist_delete(&process->node);
}

static void
at_reset(void *process)
{
	end_process(process);
}

static void
at_exit(int code, Datum arg)
{
	while (!dlist_is_empty(&running))
		end_process(dlist_container(Process, node, dlist_head_node(&running)));
}

void
gc_reader_stop(GcReader *reader)
{
	static const uint32 length = 1;
	char		stop[sizeof(length) + 1];
	Process    *process = (Process *) reader;

	if (reader->pid != 0 && !reader->closed)
	{
		/* by hand, because appending to a buffer can fail; the end of our side means the same */
		memcpy(stop, &length, sizeof(length));
		stop[sizeof(length)] = GC_FRAME_STOP;
		if (reader->out.len == 0 && send(reader->socket, stop, sizeof(stop), MSG_NOSIGNAL) < 0)
			reader->closed = true;
		shutdown(reader->socket, SHUT_WR);
	}
	if (reader->pid != 0)
		reap_within(process, STOP_MS);
	end_process(process);
	MemoryContextDelete(process->context);
}

char *
gc_reader_death(GcReader *reader)
{
	Process    *process = (Process *) reader;
	int			status;

	if (reader->pid == 0)
		return pstrdup("has ended");
	if (!reap_within(process, DEATH_MS))
	{
		kill(reader->pid, SIGKILL);
		reap(process, true);
		return pstrdup("closed its connection and did not end");
	}
	status = process->status;
	if (WIFSIGNALED(status))
		return psprintf("was killed by signal %d: %s", WTERMSIG(status), pg_strsignal(WTERMSIG(status)));
	return psprintf("ended with exit code %d", WEXITSTATUS(status));
}

/*
 * Starting
 */

/* A process that is not there yet, which can already be ended. */
static Process *
make_process(void)
{
	static bool registered = false;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "guest_context reader",
												  ALLOCSET_DEFAULT_SIZES);
	Process    *process = MemoryContextAllocZero(context, sizeof(Process));

	process->context = context;
	process->reader.socket = PGINVALID_SOCKET;
	process->at_reset.func = at_reset;
	process->at_reset.arg = process;
	MemoryContextRegisterResetCallback(context, &process->at_reset);
	if (!registered)
		before_shmem_exit(at_exit, (Datum) 0);
	registered = true;
	return process;
}

static void
no_process(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not start the reader program: %s: %m", what)));
}

/* Waits until the child is the reader, or says that it cannot be. */
static void
await_exec(Process *process, int report_fd, const char *path)
{
	Report		report;
	ssize_t		got;

	do
		got = read(report_fd, &report, sizeof(report));
	while (got < 0 && errno == EINTR);
	close(report_fd);
	if (got == 0)
		return;
	end_process(process);
	errno = got == sizeof(report) ? report.error : ECHILD;
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not start the reader program \"%s\": %m", path),
			 errdetail("The step that failed is to %s it.",
					   steps[got == sizeof(report) && report.step == 1 ? 1 : 0]),
			 errhint("It is installed beside the library of the extension: make install")));
}

static void
spawn(Process *process)
{
	char		path[MAXPGPATH];
	pid_t		parent = getpid();
	int			pair[2];
	int			report[2];
	sigset_t	all;
	sigset_t	before;
	pid_t		pid;

	snprintf(path, sizeof(path), "%s/%s", pkglib_path, PROGRAM);
	if (!AcquireExternalFD())
		no_process("too many open files");
	process->counted = true;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
		no_process("socketpair");
	process->reader.socket = pair[0];
	if (pipe(report) != 0)
	{
		int			error = errno;

		close(pair[1]);
		errno = error;
		no_process("pipe");
	}

	/* what else this process starts does not get them */
	fcntl(pair[0], F_SETFD, FD_CLOEXEC);
	fcntl(report[0], F_SETFD, FD_CLOEXEC);
	fcntl(pair[0], F_SETFL, O_NONBLOCK);

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0)
		child_main(path, parent, pair[1], report[1]);
	if (pid > 0)
	{
		process->reader.pid = pid;
		dlist_push_tail(&running, &process->node);
	}
	{
		int			error = errno;

		sigprocmask(SIG_SETMASK, &before, NULL);
		close(pair[1]);
		close(report[1]);
		if (pid < 0)
			close(report[0]);
		errno = error;
	}
	if (pid < 0)
		no_process("fork");
	await_exec(process, report[0], path);
}

/* Options and secrets, of which nothing stays in our buffer. */
static void
configure(GcReader *reader, const char *kind, List *settings, uint64 memory)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CONFIGURE_MS);
	ListCell   *lc;

	gc_frame_begin(&reader->out, GC_FRAME_CONFIGURE);
	gc_frame_put_string(&reader->out, kind);
	gc_frame_put_u32(&reader->out, list_length(settings));
	foreach(lc, settings)
	{
		GcServerSetting  *setting = lfirst(lc);

		gc_frame_put_string(&reader->out, setting->name);
		gc_frame_put_string(&reader->out, setting->value);
	}
	gc_frame_put_u64(&reader->out, memory);
	gc_frame_finish(&reader->out);

	for (;;)
	{
		long		timeout;

		gc_reader_pump(reader);
		if (reader->out.len == 0)
			break;
		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (timeout == 0)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("the reader program does not take its options")));
		(void) WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT | WL_SOCKET_WRITEABLE,
								 reader->socket, timeout, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	explicit_bzero(reader->out.data, reader->out.room);
}

/* As little as can be fetched at once: a batch. */
static List *
batch_by_batch(List *settings)
{
	GcServerSetting *least = palloc0(sizeof(GcServerSetting));
	ListCell   *lc;

	least->name = "fetch.message.max.bytes";
	least->value = "1";
	foreach(lc, settings)
		if (strcmp(((GcServerSetting *) lfirst(lc))->name, least->name) == 0)
			settings = foreach_delete_current(settings, lc);
	return lappend(settings, least);
}

GcReader *
gc_reader_start(Oid server, Oid user, uint64 memory, bool careful)
{
	List	   *settings = gc_server_settings(server, user);
	Process    *process = make_process();
	MemoryContext caller = MemoryContextSwitchTo(process->context);

	PG_TRY();
	{
		spawn(process);
		/* buffers stay in the context in which they begin */
		process->reader.in = palloc(READ_BYTES);
		process->reader.in_room = READ_BYTES;
		if (careful && strcmp(gc_server_kind(server), "kafka") == 0)
			settings = batch_by_batch(settings);
		configure(&process->reader, gc_server_kind(server), settings, memory);
	}
	PG_CATCH();
	{
		/* not only when the caller's context goes */
		MemoryContextSwitchTo(caller);
		MemoryContextDelete(process->context);
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	return &process->reader;
}

/*
 * Talking
 */

/*
 * Makes room for one more read, at the end of what is not taken yet. Bytes are moved only over as many that
 * were taken, so each is moved once on average.
 */
static void
make_room(GcReader *reader)
{
	size_t		room = reader->in_room;

	if (reader->in_len == 0)
		reader->in_start = 0;
	if (reader->in_room - reader->in_start - reader->in_len >= READ_BYTES && room <= ROOM_KEEP)
		return;
	if (reader->in_start >= reader->in_len)
	{
		memcpy(reader->in, reader->in + reader->in_start, reader->in_len);
		reader->in_start = 0;
		if (reader->in_len == 0 && room > ROOM_KEEP)
			room = ROOM_KEEP;
	}
	while (room - reader->in_start - reader->in_len < READ_BYTES)
		room *= 2;
	if (room != reader->in_room)
		reader->in = repalloc_huge(reader->in, room);
	reader->in_room = room;
}

static void
write_out(GcReader *reader)
{
	while (reader->out.len > 0)
	{
		ssize_t		sent;

		GC_FAULT_HALF("server: half of a frame sent", reader->socket, reader->out.data, reader->out.len);
		sent = send(reader->socket, reader->out.data, reader->out.len, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		/* nobody reads any more; what has been written to us is still to be read, and then its end */
		if (sent < 0)
			sent = reader->out.len;
		gc_frame_consume(&reader->out, sent);
	}
}

static void
read_in(GcReader *reader)
{
	for (int i = 0; i < READS_AT_ONCE && !reader->closed; i++)
	{
		ssize_t		got;

		make_room(reader);
		got = recv(reader->socket, reader->in + reader->in_start + reader->in_len,
				   reader->in_room - reader->in_start - reader->in_len, 0);
		if (got > 0)
			reader->in_len += got;
		else if (got == 0 || (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK))
			reader->closed = true;
		else if (errno != EINTR)
			return;
	}
}

void
gc_reader_pump(GcReader *reader)
{
	if (reader->socket == PGINVALID_SOCKET)
		return;
	write_out(reader);
	read_in(reader);
}

bool
gc_reader_next(GcReader *reader, GcFrame *frame)
{
	ssize_t		size = gc_frame_next(reader->in + reader->in_start, reader->in_len, frame);

	if (size < 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the reader program sent what is no frame")));
	if (size == 0)
		return false;
	/* the bytes stay where they are until the next pump */
	reader->in_start += size;
	reader->in_len -= size;
	return true;
}

char *
gc_reader_text(const char *text, size_t len)
{
	size_t		kept = gc_utf8_clip(text, len, SAID_BYTES);
	bool		valid = pg_verify_mbstr(PG_UTF8, text, kept, true);
	char	   *copy = pnstrdup(text, kept);

	for (char *at = copy; *at; at++)
	{
		if (!valid && IS_HIGHBIT_SET(*at))
			*at = '?';
		else if ((unsigned char) *at < ' ' || *at == 0x7f)
			*at = ' ';
	}
	return copy;
}

void
gc_reader_check_hello(GcFrame *frame)
{
	uint32		protocol = gc_frame_get_u32(frame);

	if (frame->type != GC_FRAME_HELLO || frame->bad || protocol != GC_PROTOCOL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the reader program is of another version than the loaded library"),
				 errdetail("It speaks protocol %u, the library %u.", protocol, GC_PROTOCOL),
				 errhint("Connect again; a preloaded library is loaded by a restart of the server.")));
}
