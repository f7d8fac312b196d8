/*
 * tests.h: the tests, and the mock cluster that those about Kafka share.
 */
#ifndef GC_READER_TESTS_H
#define GC_READER_TESTS_H

#include "harness.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#define MB ((uint64) 1024 * 1024)
#define BROKERS 2
#define GUEST(ref, name) \
	"{\"ref\":\"" ref "\",\"name\":\"" name "\",\"total\":1.50,\"modified_at\":\"2026-01-01T00:00:00Z\"}"

/* kafka_tests.c: the cluster, made when it is first asked for */
extern rd_kafka_mock_cluster_t *cluster(void);
extern void cluster_end(void);
extern void new_topic(const char *topic, int partitions);
extern void produce(const char *topic, int32 partition, const char *key, const char *value);
extern void produce_headers(const char *topic, int32 partition, const char *key, const char *value, size_t len,
							const char *header, const char *text);
extern void produced(void);
extern Reader *open_kafka(uint64 memory);

extern void test_file_lines(void);
extern void test_kafka_records(void);
extern void test_kafka_credit(void);
extern void test_kafka_neighbours(void);
extern void test_kafka_epochs(void);
extern void test_kafka_fan_out(void);
extern void test_kafka_payloads(void);
extern void test_kafka_questions(void);

#endif							/* GC_READER_TESTS_H */
