/*
 * gc_reader_test.c: tries the reader program against the library's mock cluster and against files.
 *
 *		gc_reader_test READER SANITIZED [TEST]	runs all tests, or those whose name begins so, with both programs;
 *												prints what fails, and "reader: N passed, N failed"
 */
#include "postgres_fe.h"

#include "tests.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define AT_ONCE 5				/* they mostly wait */

static const struct
{
	const char *name;
	void		(*run) (void);
	bool		plain_only;		/* needs the limit of memory, or time */
}			tests[] = {
	{"fault_no_topic", test_fault_no_topic, true},
	{"fault_malformed", test_fault_malformed, true},
	{"fault_bomb", test_fault_bomb, true},
	{"file_lines", test_file_lines},
	{"file_partitions", test_file_partitions},
	{"file_faults", test_file_faults},
	{"process_options", test_process_options},
	{"process_garbage", test_process_garbage},
	{"process_parent", test_process_parent},
	{"process_limits", test_process_limits},
	{"process_slow_server", test_process_slow_server},
	{"process_subscriptions", test_process_subscriptions},
	{"process_fuzz", test_process_fuzz},
	{"kafka_records", test_kafka_records},
	{"kafka_credit", test_kafka_credit},
	{"kafka_rests", test_kafka_rests},
	{"kafka_neighbours", test_kafka_neighbours},
	{"kafka_epochs", test_kafka_epochs},
	{"kafka_fan_out", test_kafka_fan_out},
	{"kafka_payloads", test_kafka_payloads},
	{"kafka_questions", test_kafka_questions},
	{"fault_out_of_range", test_fault_out_of_range},
	{"fault_broker_down", test_fault_broker_down},
	{"fault_leader_moves", test_fault_leader_moves},
	{"fault_gaps", test_fault_gaps},
	{"fault_unreadable", test_fault_unreadable},
	{"fault_too_large", test_fault_too_large},
};

/* In a process of its own, with a cluster of its own. */
static int
run_one(int test, const char *suffix)
{
	int64		begun = now_ms();

	signal(SIGPIPE, SIG_IGN);
	npassed = nfailed = 0;		/* not the parent's */
	test_name = tests[test].name;
	tests[test].run();
	printf("%-6s %s%-*s %5d ms\n", nfailed == 0 ? "ok" : "FAILED", tests[test].name,
		   (int) (36 - strlen(tests[test].name)), suffix, (int) (now_ms() - begun));
	printf("%d passed, %d failed\n", npassed, nfailed);
	fflush(stdout);
	files_end();
	cluster_end();
	return 0;
}

/* What it printed; its last line is counted. */
static void
collect(FILE *from, pid_t pid, const char *name)
{
	char		line[4096];
	int			passed = -1;
	int			failed;
	int			status;

	while (fgets(line, sizeof(line), from) != NULL)
	{
		if (sscanf(line, "%d passed, %d failed", &passed, &failed) == 2)
		{
			npassed += passed;
			nfailed += failed;
		}
		else
			fputs(line, stdout);
	}
	fclose(from);
	if (waitpid(pid, &status, 0) != pid || status != 0 || passed < 0)
	{
		printf("FAILED %s: its process ended with status %d\n", name, status);
		nfailed++;
	}
	fflush(stdout);
}

int
main(int argc, char **argv)
{
	FILE	   *from[2 * lengthof(tests)] = {NULL};
	pid_t		pids[2 * lengthof(tests)];
	int			started = 0;
	const char *only = argc > 3 ? argv[3] : "";

	if (argc < 3)
	{
		fprintf(stderr, "usage: gc_reader_test READER SANITIZED [TEST]\n");
		return 2;
	}
	for (int i = 0; i < lengthof(from); i++)
	{
		for (; started < Min(i + AT_ONCE, lengthof(from)); started++)
		{
			int			test = started % lengthof(tests);
			int			pair[2];

			reader_sanitized = started >= lengthof(tests);
			reader_program = argv[reader_sanitized ? 2 : 1];
			if (strncmp(tests[test].name, only, strlen(only)) != 0 || (reader_sanitized && tests[test].plain_only))
				continue;
			if (pipe2(pair, O_CLOEXEC) != 0)
				return 2;
			fflush(stdout);
			pids[started] = fork();
			if (pids[started] == 0)
			{
				dup2(pair[1], STDOUT_FILENO);
				exit(run_one(test, reader_sanitized ? " sanitized" : ""));
			}
			close(pair[1]);
			from[started] = fdopen(pair[0], "r");
		}
		if (from[i] != NULL)
			collect(from[i], pids[i], tests[i % lengthof(tests)].name);
	}
	printf("reader: %d passed, %d failed\n", npassed, nfailed);
	return nfailed > 0 || npassed == 0;
}
