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
extern int64 committed(const char *group, const char *topic, int32 partition);
extern Reader *open_kafka(uint64 memory);

/* raw_batch.c: partition 0 of a topic that the first broker leads */
typedef struct RawBatch
{
	int			count;
	int			deltas[8];
	int			last_delta;
	bool		control;		/* a transaction's marker instead of a record */
	const char *value;
	uint64		zeroes;			/* a value of that many, packed */
	bool		bad_crc;
	bool		garbage;		/* instead of records */
} RawBatch;

extern void produce_batch(const char *topic, const RawBatch *raw);

extern void files_end(void);
extern void test_file_lines(void);
extern void test_file_partitions(void);
extern void test_file_faults(void);
extern void test_process_options(void);
extern void test_process_garbage(void);
extern void test_process_parent(void);
extern void test_process_limits(void);
extern void test_process_slow_server(void);
extern void test_process_subscriptions(void);
extern void test_process_fuzz(void);

extern void test_kafka_records(void);
extern void test_kafka_credit(void);
extern void test_kafka_rests(void);
extern void test_kafka_neighbours(void);
extern void test_kafka_epochs(void);
extern void test_kafka_fan_out(void);
extern void test_kafka_payloads(void);
extern void test_kafka_questions(void);

extern void test_fault_out_of_range(void);
extern void test_fault_no_topic(void);
extern void test_fault_broker_down(void);
extern void test_fault_leader_moves(void);
extern void test_fault_gaps(void);
extern void test_fault_unreadable(void);
extern void test_fault_malformed(void);
extern void test_fault_too_large(void);
extern void test_fault_bomb(void);

#endif							/* GC_READER_TESTS_H */
