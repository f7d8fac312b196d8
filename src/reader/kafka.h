/*
 * kafka.h: what kafka.c (reading), kafka_conf.c (options) and kafka_probe.c (questions) share.
 */
#ifndef GC_KAFKA_H
#define GC_KAFKA_H

#include "reader.h"

#include <librdkafka/rdkafka.h>

/* The consumer. Its queue is the loop's; metadata and offsets may be asked for by the probe. */
extern rd_kafka_t *gc_kafka;

/* kafka_conf.c: a new handle of its own with the server's options, or NULL and why. */
typedef enum GcKafkaUse
{
	GC_KAFKA_READ,
	GC_KAFKA_PROBE				/* single records: fetches little */
} GcKafkaUse;

extern bool gc_kafka_settings(const GcSettings *settings, char *text, size_t size);
extern rd_kafka_t *gc_kafka_new(GcKafkaUse use, char *text, size_t size);
extern const char *gc_kafka_group(void);
extern const char *gc_kafka_login_advice(void);

/* kafka.c */
extern GcTrouble gc_kafka_trouble(rd_kafka_resp_err_t err);
extern void gc_kafka_fill(const rd_kafka_message_t *message, GcHeader **headers, int *room, GcMessage *out);
extern bool gc_kafka_is_too_large(rd_kafka_resp_err_t err, const char *text);
extern GcServerState gc_kafka_state(rd_kafka_resp_err_t err);

/* kafka_probe.c */
extern void gc_kafka_query(GcJob *job);
extern void gc_kafka_range(GcJob *job);
extern void gc_kafka_check(GcJob *job);
extern void gc_kafka_ping(GcJob *job);

#endif							/* GC_KAFKA_H */
