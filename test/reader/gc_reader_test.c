/*
 * gc_reader_test.c: tries the reader program against the library's mock cluster and against files.
 *
 *		gc_reader_test READER [TEST]	runs all tests, or those whose name begins so;
 *										prints what fails, and "reader: N passed, N failed"
 */
#include "postgres_fe.h"

#include "tests.h"

#include <signal.h>

static const struct
{
	const char *name;
	void		(*run) (void);
}			tests[] = {
	{"file_lines", test_file_lines},
	{"kafka_records", test_kafka_records},
	{"kafka_credit", test_kafka_credit},
	{"kafka_neighbours", test_kafka_neighbours},
	{"kafka_epochs", test_kafka_epochs},
	{"kafka_fan_out", test_kafka_fan_out},
	{"kafka_payloads", test_kafka_payloads},
	{"kafka_questions", test_kafka_questions},
};

int
main(int argc, char **argv)
{
	if (argc < 2)
	{
		fprintf(stderr, "usage: gc_reader_test READER [TEST]\n");
		return 2;
	}
	reader_program = argv[1];
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < lengthof(tests); i++)
	{
		int64		begun = now_ms();
		int			before = nfailed;

		if (argc > 2 && strncmp(tests[i].name, argv[2], strlen(argv[2])) != 0)
			continue;
		test_name = tests[i].name;
		tests[i].run();
		printf("%-6s %-24s %5d ms\n", nfailed == before ? "ok" : "FAILED", tests[i].name, (int) (now_ms() - begun));
		fflush(stdout);
	}
	cluster_end();
	printf("reader: %d passed, %d failed\n", npassed, nfailed);
	return nfailed > 0 || npassed == 0;
}
