/*
 * mock_broker.c
 *	  A Kafka for a minute: librdkafka's mock cluster in a process of its own.
 *
 * The demo runs it, so that nobody needs a broker to see one work.
 *
 *		mock_broker TOPIC[:PARTITIONS]...
 *
 * makes the topics, prints a line "HOST:PORT", and ends with its standard input. It
 * keeps records in memory, and no more than a few megabytes of them: for
 * real tests there is tools/kafka.sh.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

int
main(int argc, char **argv)
{
	char		error[512];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *host;
	rd_kafka_mock_cluster_t *cluster;

	rd_kafka_conf_set_log_cb(conf, NULL);	/* it would warn that it has no broker */
	host = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (host == NULL)
	{
		fprintf(stderr, "mock_broker: %s\n", error);
		return 1;
	}
	cluster = rd_kafka_mock_cluster_new(host, 1);
	if (cluster == NULL)
	{
		fprintf(stderr, "mock_broker: could not start\n");
		return 1;
	}
	for (int i = 1; i < argc; i++)
	{
		char	   *colon = strchr(argv[i], ':');
		int			partitions = colon ? atoi(colon + 1) : 1;

		if (colon)
			*colon = '\0';
		if (partitions < 1 || rd_kafka_mock_topic_create(cluster, argv[i], partitions, 1) != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			fprintf(stderr, "mock_broker: could not make the topic %s\n", argv[i]);
			return 1;
		}
	}
	printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
	fflush(stdout);
	while (getchar() != EOF)
		;
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(host);
	return 0;
}
