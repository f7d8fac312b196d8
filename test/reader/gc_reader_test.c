/*
 * gc_reader_test.c: tries the reader program against the library's mock cluster and against files.
 *
 *		gc_reader_test READER [TEST]	runs all tests, or those whose name begins so;
 *										prints what fails, and "reader: N passed, N failed"
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
}			tests[] = {
	{"fault_no_topic", test_fault_no_topic},
	{"fault_malformed", test_fault_malformed},
	{"fault_bomb", test_fault_bomb},
	{"file_lines", test_file_lines},
	{"kafka_records", test_kafka_records},
	{"kafka_credit", test_kafka_credit},
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
run_one(int test)
{
	int64		begun = now_ms();

	signal(SIGPIPE, SIG_IGN);
	npassed = nfailed = 0;		/* not the parent's */
	test_name = tests[test].name;
	tests[test].run();
	printf("%-6s %-24s %5d ms\n", nfailed == 0 ? "ok" : "FAILED", tests[test].name, (int) (now_ms() - begun));
	printf("%d passed, %d failed\n", npassed, nfailed);
	fflush(stdout);
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
	FILE	   *from[lengthof(tests)] = {NULL};
	pid_t		pids[lengthof(tests)];
	int			started = 0;

	if (argc < 2)
	{
		fprintf(stderr, "usage: gc_reader_test READER [TEST]\n");
		return 2;
	}
	reader_program = argv[1];
	for (int i = 0; i < lengthof(tests); i++)
	{
		for (; started < Min(i + AT_ONCE, lengthof(tests)); started++)
		{
			int			pair[2];

			if (argc > 2 && strncmp(tests[started].name, argv[2], strlen(argv[2])) != 0)
				continue;
			if (pipe2(pair, O_CLOEXEC) != 0)
				return 2;
			fflush(stdout);
			pids[started] = fork();
			if (pids[started] == 0)
			{
				dup2(pair[1], STDOUT_FILENO);
				exit(run_one(started));
			}
			close(pair[1]);
			from[started] = fdopen(pair[0], "r");
		}
		if (from[i] != NULL)
			collect(from[i], pids[i], tests[i].name);
	}
	printf("reader: %d passed, %d failed\n", npassed, nfailed);
	return nfailed > 0 || npassed == 0;
}
