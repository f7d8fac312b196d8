/*
 * kafka.c: servers of TYPE 'kafka': reading.
 *
 * One consumer handle and one queue: the consumer's and the logs' are redirected to it, and the
 * library writes to an eventfd when it stops being empty. No callback is registered, so that nothing of
 * ours runs in a thread of the library's. Partitions are assigned one by one, never subscribed to, which needs
 * no group; offsets are committed under a group's name for lag tools only.
 *
 * What is stale is the library's affair: assigning, unassigning and pausing return after the
 * partition's version has grown, and its queue drops records of an older one. The position is the last record's
 * plus one, and the one of the end-of-partition event, which counts markers and what compaction left out.
 */
#include "kafka.h"

#include <sys/eventfd.h>
#include <unistd.h>

#define BUCKETS 512

rd_kafka_t *gc_kafka;

static rd_kafka_queue_t *queue;
static int	event_fd = -1;
static GcPart *buckets[BUCKETS];
static int	commits;			/* on their way */
static bool commit_warned;
static GcHeader *headers;
static int	headers_room;

const char *
gc_kafka_versions(void)
{
	static char versions[64];

	snprintf(versions, sizeof(versions), "librdkafka %s", rd_kafka_version_str());
	return versions;
}

static uint32
bucket_of(const char *topic, int32 partition)
{
	uint32		hash = 2166136261u ^ (uint32) partition;

	for (; *topic; topic++)
		hash = (hash ^ (unsigned char) *topic) * 16777619u;
	return hash % BUCKETS;
}

static GcPart *
find_part(const char *topic, int32 partition)
{
	GcPart	   *part = buckets[bucket_of(topic, partition)];

	while (part && (part->partition != partition || strcmp(part->subscription->topic, topic) != 0))
		part = part->next_in_bucket;
	return part;
}

/*
 * Errors
 */

GcTrouble
gc_kafka_trouble(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
#if RD_KAFKA_VERSION >= 0x020100ff
		case RD_KAFKA_RESP_ERR__LOG_TRUNCATION:
#endif
			return GC_TROUBLE_OUT_OF_RANGE;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			return GC_TROUBLE_NO_TOPIC;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
			return GC_TROUBLE_DENIED;
		case RD_KAFKA_RESP_ERR__BAD_MSG:
		case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
		case RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED:
		case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE:
		case RD_KAFKA_RESP_ERR__UNDERFLOW:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE:
			return GC_TROUBLE_UNREADABLE;
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
			return GC_TROUBLE_TOO_LARGE;
		default:
			return GC_TROUBLE_TRANSIENT;
	}
}

/* What an error that belongs to no partition says about the server; 0 = nothing. */
GcServerState
gc_kafka_state(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
			return GC_SERVER_DOWN;
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR__SSL:
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
		case RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE:
			return GC_SERVER_AUTHENTICATION;
		case RD_KAFKA_RESP_ERR__FATAL:
			return GC_SERVER_FAILED;
		default:
			return (GcServerState) 0;
	}
}

/*
 * A response above receive.message.max.bytes breaks the connection, so the library tells no
 * partition, and its text is all that tells it from other damage.
 */
bool
gc_kafka_is_too_large(rd_kafka_resp_err_t err, const char *text)
{
	return err == RD_KAFKA_RESP_ERR__BAD_MSG && text != NULL && strstr(text, "receive.message.max.bytes") != NULL;
}

static void
take_error(rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	const char *text = rd_kafka_event_error_string(event);
	rd_kafka_topic_partition_t *where = rd_kafka_event_topic_partition(event);
	GcServerState state;

	if (where != NULL)
	{
		GcPart	   *part = find_part(where->topic, where->partition);

		if (part == NULL)
			;					/* not ours any more */
		else if (err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			gc_part_end(part, where->offset);
		else if (!part->active)
			;					/* it has had its trouble */
		else
		{
#if RD_KAFKA_VERSION >= 0x020100ff
			part->truncated = err == RD_KAFKA_RESP_ERR__LOG_TRUNCATION;
#endif
			gc_part_trouble(part, gc_kafka_trouble(err), where->offset >= 0 ? where->offset : part->taken, text);
		}
		rd_kafka_topic_partition_destroy(where);
		return;
	}
	state = gc_kafka_state(err);
	if (rd_kafka_event_error_is_fatal(event))
		state = GC_SERVER_FAILED;
	if (state == GC_SERVER_AUTHENTICATION && err != RD_KAFKA_RESP_ERR__SSL)
	{
		char		advised[768];

		snprintf(advised, sizeof(advised), "%s%s", text, gc_kafka_login_advice());
		gc_loop_server(state, advised);
	}
	else if (state != 0)
		gc_loop_server(state, text);
	else
		gc_loop_log(5, text);
	if (gc_kafka_is_too_large(err, text))
		gc_parts_doubt();
}

static void
take_commit(rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	rd_kafka_topic_partition_list_t *list = rd_kafka_event_topic_partition_list(event);

	commits--;
	for (int i = 0; list != NULL && err == RD_KAFKA_RESP_ERR_NO_ERROR && i < list->cnt; i++)
		err = list->elems[i].err;
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR && !commit_warned)
	{
		char		line[512];

		snprintf(line, sizeof(line), "offsets could not be committed to group \"%.100s\", lag tools do not see them: %s",
				 gc_kafka_group(), rd_kafka_err2str(err));
		gc_loop_log(4, line);
	}
	commit_warned = err != RD_KAFKA_RESP_ERR_NO_ERROR;
}

/*
 * What the loop calls
 */

static bool
kafka_start(const GcSettings *settings, char *text, size_t size)
{
	static const uint64 one = 1;

	if (!gc_kafka_settings(settings, text, size))
		return false;
	event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (event_fd < 0)
	{
		snprintf(text, size, "could not make an eventfd: %s", strerror(errno));
		return false;
	}
	gc_kafka = gc_kafka_new(GC_KAFKA_READ, text, size);
	if (gc_kafka == NULL)
		return false;
	queue = rd_kafka_queue_get_consumer(gc_kafka);
	if (queue == NULL || rd_kafka_poll_set_consumer(gc_kafka) != RD_KAFKA_RESP_ERR_NO_ERROR ||
		rd_kafka_set_log_queue(gc_kafka, queue) != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		snprintf(text, size, "the library could not redirect its queues");
		return false;
	}
	rd_kafka_queue_io_event_enable(queue, event_fd, &one, sizeof(one));
	return true;
}

static rd_kafka_topic_partition_list_t *
list_of(const GcPart *part, int64 offset)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);

	rd_kafka_topic_partition_list_add(list, part->subscription->topic, part->partition)->offset = offset;
	return list;
}

static void
kafka_assign(GcPart *part)
{
	rd_kafka_topic_partition_list_t *list = list_of(part, part->taken);
	uint32		bucket = bucket_of(part->subscription->topic, part->partition);
	rd_kafka_error_t *error;

	part->next_in_bucket = buckets[bucket];
	buckets[bucket] = part;
	part->assigned = true;
	error = rd_kafka_incremental_assign(gc_kafka, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (error != NULL)
	{
		char		text[512];

		snprintf(text, sizeof(text), "could not assign: %s", rd_kafka_error_string(error));
		rd_kafka_error_destroy(error);
		gc_part_trouble(part, GC_TROUBLE_NO_TOPIC, part->taken, text);
	}
}

static void
kafka_unassign(GcPart *part)
{
	rd_kafka_topic_partition_list_t *list = list_of(part, RD_KAFKA_OFFSET_INVALID);
	GcPart	  **link = &buckets[bucket_of(part->subscription->topic, part->partition)];
	rd_kafka_error_t *error;

	while (*link != part)
		link = &(*link)->next_in_bucket;
	*link = part->next_in_bucket;
	part->assigned = false;

	/* a pause would outlive the assignment */
	if (part->paused)
		rd_kafka_resume_partitions(gc_kafka, list);
	part->paused = false;
	error = rd_kafka_incremental_unassign(gc_kafka, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (error != NULL)
	{
		gc_loop_log(4, rd_kafka_error_string(error));
		rd_kafka_error_destroy(error);
	}
}

static void
kafka_pause(GcPart *part, bool pause)
{
	rd_kafka_topic_partition_list_t *list = list_of(part, RD_KAFKA_OFFSET_INVALID);

	if (pause)
		rd_kafka_pause_partitions(gc_kafka, list);
	else
		rd_kafka_resume_partitions(gc_kafka, list);
	if (list->elems[0].err != RD_KAFKA_RESP_ERR_NO_ERROR)
		gc_loop_log(4, rd_kafka_err2str(list->elems[0].err));
	rd_kafka_topic_partition_list_destroy(list);
}

static int
kafka_wait_fd(void)
{
	return event_fd;
}

static int
kafka_wait_ms(void)
{
	return 1000;
}

static bool
take_message(rd_kafka_event_t *event, GcTaken *taken)
{
	const rd_kafka_message_t *message = rd_kafka_event_message_next(event);

	if (message == NULL || message->rkt == NULL || message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	taken->part = find_part(rd_kafka_topic_name(message->rkt), message->partition);
	if (taken->part == NULL)
		return false;
	taken->offset = message->offset;
	taken->after = message->offset + 1;
	taken->bytes = message->len + message->key_len + sizeof(GcTaken) + 256;
	taken->owner = event;
	taken->detail = message;
	return true;
}

static void
take_log(rd_kafka_event_t *event)
{
	const char *facility;
	const char *text;
	int			level;

	if (rd_kafka_event_log(event, &facility, &text, &level) == 0)
		gc_loop_log(level, text);
}

static bool
kafka_take(GcTaken *taken)
{
	bool		drained = false;

	for (;;)
	{
		rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 0);
		uint64		count;

		if (event == NULL)
		{
			/* the wake-up is taken first, and then the queue is looked at once more */
			if (drained || read(event_fd, &count, sizeof(count)) < 0)
				return false;
			drained = true;
			continue;
		}
		switch (rd_kafka_event_type(event))
		{
			case RD_KAFKA_EVENT_FETCH:
				if (take_message(event, taken))
				{
					gc_loop_server(GC_SERVER_UP, NULL);
					return true;
				}
				break;
			case RD_KAFKA_EVENT_ERROR:
				take_error(event);
				break;
			case RD_KAFKA_EVENT_LOG:
				take_log(event);
				break;
			case RD_KAFKA_EVENT_OFFSET_COMMIT:
				take_commit(event);
				break;
			default:
				break;
		}
		rd_kafka_event_destroy(event);
	}
}

void
gc_kafka_fill(const rd_kafka_message_t *message, GcHeader **array, int *room, GcMessage *out)
{
	GcDecodeInput *in = &out->in;
	rd_kafka_timestamp_type_t type;
	int64		ms = rd_kafka_message_timestamp(message, &type);
	rd_kafka_headers_t *all;

	memset(out, 0, sizeof(*out));
	in->value = message->payload;
	in->value_len = message->len;
	in->key = message->key;
	in->key_len = message->key_len;
	in->timestamp_us = type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE || ms < 0 || ms > PG_INT64_MAX / 1000 ?
		GC_NO_TIMESTAMP : ms * 1000;
	if (rd_kafka_message_headers(message, &all) == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		const char *name;
		const void *value;
		size_t		size;

		while (rd_kafka_header_get_all(all, (size_t) in->nheaders, &name, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			if (in->nheaders == *room)
			{
				*room = Max(*room * 2, 16);
				*array = pg_realloc(*array, *room * sizeof(GcHeader));
			}
			(*array)[in->nheaders].name = name;
			(*array)[in->nheaders].value = value;
			(*array)[in->nheaders].value_len = size;
			in->nheaders++;
		}
	}
	in->headers = *array;
}

static void
kafka_fill(GcTaken *taken, GcMessage *message)
{
	gc_kafka_fill(taken->detail, &headers, &headers_room, message);
}

static void
kafka_release(GcTaken *taken)
{
	rd_kafka_event_destroy(taken->owner);
}

static int64
kafka_end(GcPart *part)
{
	int64		low;
	int64		high;

	if (rd_kafka_get_watermark_offsets(gc_kafka, part->subscription->topic, part->partition, &low, &high) !=
		RD_KAFKA_RESP_ERR_NO_ERROR || high < 0)
		return -1;
	return high;
}

/* One request on its way at a time: the next one has everything that has come up by then. */
static bool
kafka_commit(GcPart *parts)
{
	rd_kafka_topic_partition_list_t *list;

	if (commits > 0)
		return false;
	list = rd_kafka_topic_partition_list_new(16);
	for (GcPart *part = parts; part; part = part->next)
	{
		if (part->commit < 0)
			continue;
		rd_kafka_topic_partition_list_add(list, part->subscription->topic, part->partition)->offset = part->commit;
		part->commit = -1;
	}
	if (list->cnt > 0 &&
		rd_kafka_commit_queue(gc_kafka, list, queue, NULL, NULL) == RD_KAFKA_RESP_ERR_NO_ERROR)
		commits++;
	rd_kafka_topic_partition_list_destroy(list);
	return true;
}

/* The handle is not destroyed: the probe may be using it, and the process ends anyway. */
static void
kafka_stop(void)
{
	int64		until = gc_now() + 300;

	while (commits > 0 && gc_now() < until)
	{
		rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 50);

		if (event != NULL && rd_kafka_event_type(event) == RD_KAFKA_EVENT_OFFSET_COMMIT)
			commits--;
		if (event != NULL)
			rd_kafka_event_destroy(event);
	}
}

/* It could not be told how long before fetch.queue.backoff.ms came. */
static bool
kafka_rests(void)
{
	return rd_kafka_version() < 0x020200ff;
}

const GcSource gc_kafka_source = {
	.kind = "kafka",
	.start = kafka_start,
	.assign = kafka_assign,
	.unassign = kafka_unassign,
	.pause = kafka_pause,
	.wait_fd = kafka_wait_fd,
	.wait_ms = kafka_wait_ms,
	.take = kafka_take,
	.fill = kafka_fill,
	.release = kafka_release,
	.rests = kafka_rests,
	.end = kafka_end,
	.transactions = true,
	.commit = kafka_commit,
	.stop = kafka_stop,
	.query = gc_kafka_query,
	.range = gc_kafka_range,
	.check = gc_kafka_check,
	.ping = gc_kafka_ping,
};
