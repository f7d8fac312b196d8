/*
 * kafka_probe.c: servers of TYPE 'kafka': questions. In the probe's thread.
 *
 * A handle reads a partition once, so single records are read by a second one, made at the first question
 * and kept. It fetches little, and is assigned a partition for one question at a time. Its queue has its
 * logs and errors too; they are not passed on, the answer says what went wrong. Only the ping and
 * the range of a partition in trouble use the handle that reads.
 */
#include "kafka.h"

#define NUDGE_MS	10			/* doubled each time */

static rd_kafka_t *probe;
static rd_kafka_queue_t *queue;
static GcHeader *headers;
static int	headers_room;
static char last_error[512];	/* that belongs to no partition: why nothing is answered */
static GcServerState last_state;

static void
remember(const rd_kafka_event_t *event)
{
	rd_kafka_event_t *of = unconstify(rd_kafka_event_t *, event);
	GcServerState state = gc_kafka_state(rd_kafka_event_error(of));

	/* that all are down says less than why */
	if (last_error[0] && state == GC_SERVER_DOWN)
		return;
	strlcpy(last_error, rd_kafka_event_error_string(of), sizeof(last_error));
	last_state = state;
}

static void
drain(void)
{
	rd_kafka_event_t *event;

	while ((event = rd_kafka_queue_poll(queue, 0)) != NULL)
	{
		if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR && rd_kafka_event_error(event) != RD_KAFKA_RESP_ERR__PARTITION_EOF)
			remember(event);
		rd_kafka_event_destroy(event);
	}
}

static bool
begin(GcJob *job)
{
	char		text[512];

	if (probe != NULL)
	{
		drain();
		last_error[0] = '\0';
		return true;
	}
	probe = gc_kafka_new(GC_KAFKA_PROBE, text, sizeof(text));
	if (probe == NULL)
	{
		gc_answer_fail(job, GC_TROUBLE_NONE, text);
		return false;
	}
	queue = rd_kafka_queue_get_consumer(probe);
	rd_kafka_poll_set_consumer(probe);
	rd_kafka_set_log_queue(probe, queue);
	return true;
}

static void
fail(GcJob *job, rd_kafka_resp_err_t err)
{
	char		text[768];

	drain();
	if (last_error[0] && (gc_kafka_trouble(err) == GC_TROUBLE_TRANSIENT || gc_kafka_trouble(err) == GC_TROUBLE_TOO_LARGE))
		snprintf(text, sizeof(text), "%s: %s", rd_kafka_err2str(err), last_error);
	else
		strlcpy(text, rd_kafka_err2str(err), sizeof(text));
	gc_answer_fail(job, gc_kafka_trouble(err), text);
}

/* Metadata of the job's topic, or of all; NULL: the answer is made. The caller destroys it. */
static const struct rd_kafka_metadata *
get_metadata(GcJob *job, bool all)
{
	const struct rd_kafka_metadata *metadata = NULL;
	rd_kafka_topic_t *topic = NULL;
	rd_kafka_resp_err_t err;

	if (job->topic != NULL)
	{
		topic = rd_kafka_topic_new(probe, job->topic, NULL);
		if (topic == NULL)
		{
			fail(job, rd_kafka_last_error());
			return NULL;
		}
	}
	err = rd_kafka_metadata(probe, topic == NULL && all, topic, &metadata, gc_job_left(job));
	if (topic != NULL)
		rd_kafka_topic_destroy(topic);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR && job->topic != NULL)
	{
		err = metadata->topic_cnt == 1 ? metadata->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
		if (err == RD_KAFKA_RESP_ERR_NO_ERROR && metadata->topics[0].partition_cnt == 0)
			err = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
		if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
			rd_kafka_metadata_destroy(metadata);
	}
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		fail(job, err);
		return NULL;
	}
	return metadata;
}

/* Low or high of all partitions in the list at once; a logical offset asks like a time. */
static void
ask_offsets(GcJob *job, rd_kafka_topic_partition_list_t *list, int64 logical)
{
	rd_kafka_resp_err_t err;

	for (int i = 0; i < list->cnt; i++)
		list->elems[i].offset = logical;
	if (list->cnt == 0)
		return;
	err = rd_kafka_offsets_for_times(probe, list, gc_job_left(job));
	for (int i = 0; i < list->cnt; i++)
		if (err != RD_KAFKA_RESP_ERR_NO_ERROR || list->elems[i].err != RD_KAFKA_RESP_ERR_NO_ERROR)
			list->elems[i].offset = -1;
}

static void
answer_offset(GcJob *job, int64 offset)
{
	if (offset < 0)
		gc_answer_text(job, NULL, 0);
	else
		gc_answer_number(job, offset);
}

static void
ask_topics(GcJob *job)
{
	const struct rd_kafka_metadata *metadata = get_metadata(job, true);
	rd_kafka_topic_partition_list_t *low;
	rd_kafka_topic_partition_list_t *high;

	if (metadata == NULL)
		return;
	low = rd_kafka_topic_partition_list_new(64);
	for (int i = 0; i < metadata->topic_cnt; i++)
	{
		const struct rd_kafka_metadata_topic *topic = &metadata->topics[i];

		/* the broker's own */
		if (job->topic == NULL && (strcmp(topic->topic, "__consumer_offsets") == 0 ||
								   strcmp(topic->topic, "__transaction_state") == 0))
			continue;
		for (int j = 0; j < topic->partition_cnt; j++)
			rd_kafka_topic_partition_list_add(low, topic->topic, topic->partitions[j].id);
	}
	rd_kafka_metadata_destroy(metadata);
	high = rd_kafka_topic_partition_list_copy(low);
	ask_offsets(job, low, RD_KAFKA_OFFSET_BEGINNING);
	ask_offsets(job, high, RD_KAFKA_OFFSET_END);
	gc_answer_begin(job, 4);
	for (int i = 0; i < low->cnt; i++)
	{
		rd_kafka_topic_partition_t *of = &low->elems[i];
		rd_kafka_topic_partition_t *end = rd_kafka_topic_partition_list_find(high, of->topic, of->partition);

		gc_answer_row(job);
		gc_answer_text(job, of->topic, strlen(of->topic));
		gc_answer_number(job, of->partition);
		answer_offset(job, of->offset);
		answer_offset(job, end ? end->offset : -1);
	}
	rd_kafka_topic_partition_list_destroy(low);
	rd_kafka_topic_partition_list_destroy(high);
}

static void
ask_cluster(GcJob *job)
{
	const struct rd_kafka_metadata *metadata = get_metadata(job, false);
	char	   *cluster;
	int32		controller;

	if (metadata == NULL)
		return;
	cluster = rd_kafka_clusterid(probe, gc_job_left(job));
	controller = rd_kafka_controllerid(probe, Min(gc_job_left(job), 1000));
	gc_answer_begin(job, 3);
	for (int i = 0; i < metadata->broker_cnt; i++)
	{
		char		name[512];

		snprintf(name, sizeof(name), "%s:%d", metadata->brokers[i].host, metadata->brokers[i].port);
		gc_answer_row(job);
		gc_answer_text(job, cluster, cluster ? strlen(cluster) : 0);
		gc_answer_text(job, name, strlen(name));
		gc_answer_text(job, metadata->brokers[i].id == controller ? "t" : "f", 1);
	}
	if (cluster != NULL)
		rd_kafka_mem_free(probe, cluster);
	rd_kafka_metadata_destroy(metadata);
}

/* False: the answer is made. */
static bool
get_range(GcJob *job, int64 *low, int64 *high)
{
	rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(probe, job->topic, job->partition, low, high,
															   gc_job_left(job));

	const struct rd_kafka_metadata *metadata;

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return true;

	/* of a topic that may not be read, this says that it does not exist; what is known of the topic says more */
	if (gc_kafka_trouble(err) == GC_TROUBLE_NO_TOPIC)
	{
		metadata = get_metadata(job, false);
		if (metadata == NULL)
			return false;
		rd_kafka_metadata_destroy(metadata);
	}
	fail(job, err);
	return false;
}

static void
ask_offset(GcJob *job)
{
	int64		low;
	int64		high;
	int64		offset;

	if (!get_range(job, &low, &high))
		return;
	offset = job->number == -2 ? low : high;
	if (job->number >= 0)
	{
		rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
		rd_kafka_topic_partition_t *of = rd_kafka_topic_partition_list_add(list, job->topic, job->partition);
		rd_kafka_resp_err_t err;

		/* the broker counts milliseconds: the first one that is not before it */
		of->offset = job->number / 1000 + (job->number % 1000 > 0);
		err = rd_kafka_offsets_for_times(probe, list, gc_job_left(job));
		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			err = of->err;
		offset = of->offset >= 0 ? of->offset : high;
		rd_kafka_topic_partition_list_destroy(list);
		if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			fail(job, err);
			return;
		}
	}
	gc_answer_row(job);
	gc_answer_number(job, offset);
}

/*
 * The library begins to fetch when its queue is empty, but its own notes of an assignment are in it at first, and when it has
 * looked too early it looks again a second later. Any answer of the broker makes it look.
 */
static void
nudge(GcJob *job)
{
	int64		low;
	int64		high;

	(void) rd_kafka_query_watermark_offsets(probe, job->topic, job->partition, &low, &high, gc_job_left(job));
}

/* Reads count records from an offset on, at most to the end. */
static void
read_records(GcJob *job, int64 offset, int64 end, int64 count)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_resp_err_t err;
	int64		until = gc_now() + gc_job_left(job);
	int			nudge_ms = NUDGE_MS;	/* 0 = something has come */

	rd_kafka_topic_partition_list_add(list, job->topic, job->partition)->offset = offset;
	err = rd_kafka_assign(probe, list);
	while (err == RD_KAFKA_RESP_ERR_NO_ERROR && count > 0 && offset < end && job->answer.len < GC_PEEK_BYTES)
	{
		int			left = (int) Max(until - gc_now(), 0);
		rd_kafka_event_t *event = rd_kafka_queue_poll(queue, nudge_ms > 0 ? Min(left, nudge_ms) : left);
		const rd_kafka_message_t *message;

		if (event == NULL && nudge_ms > 0 && left > nudge_ms)
		{
			nudge(job);
			nudge_ms *= 2;
			continue;
		}
		nudge_ms = 0;
		if (event == NULL)
			err = RD_KAFKA_RESP_ERR__TIMED_OUT;
		else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_FETCH)
		{
			message = rd_kafka_event_message_next(event);
			if (message != NULL && message->offset >= offset && message->offset < end)
			{
				GcMessage	record;

				gc_kafka_fill(message, &headers, &headers_room, &record);
				gc_answer_record(job, &record, message->offset);
				count--;
			}
			if (message != NULL)
				offset = Max(offset, message->offset + 1);
		}
		else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ERROR)
		{
			rd_kafka_topic_partition_t *where = rd_kafka_event_topic_partition(event);

			if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__PARTITION_EOF)
				count = 0;
			else if (where == NULL)
			{
				remember(event);
				if (gc_kafka_is_too_large(rd_kafka_event_error(event), rd_kafka_event_error_string(event)))
					err = RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
			}
			else if (gc_kafka_trouble(rd_kafka_event_error(event)) != GC_TROUBLE_TRANSIENT)
				err = rd_kafka_event_error(event);
			if (where != NULL)
				rd_kafka_topic_partition_destroy(where);
		}
		if (event != NULL)
			rd_kafka_event_destroy(event);
	}
	rd_kafka_assign(probe, NULL);
	rd_kafka_topic_partition_list_destroy(list);

	/* what has been read of a partition that is slow is still an answer to PEEK */
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR &&
		!(err == RD_KAFKA_RESP_ERR__TIMED_OUT && job->what == GC_QUERY_PEEK && job->rows > 0))
		fail(job, err);
}

static void
ask_record(GcJob *job)
{
	int64		low;
	int64		high;

	if (!get_range(job, &low, &high))
		return;
	job->low = low;
	job->high = high;
	read_records(job, Max(job->number, low), high, 1);
}

static void
peek_partition(GcJob *job)
{
	int64		low;
	int64		high;
	int64		count = Min(job->number, GC_PEEK_ROWS);

	if (get_range(job, &low, &high) && count > 0)
		read_records(job, Max(high - count, low), high, count);
}

static void
ask_peek(GcJob *job)
{
	const struct rd_kafka_metadata *metadata;

	if (job->partition >= 0)
	{
		peek_partition(job);
		return;
	}
	metadata = get_metadata(job, false);
	if (metadata == NULL)
		return;
	for (int i = 0; i < metadata->topics[0].partition_cnt && !job->failed; i++)
	{
		job->partition = metadata->topics[0].partitions[i].id;
		peek_partition(job);
	}
	rd_kafka_metadata_destroy(metadata);
}

/* The value of a setting, NULL when it is not among them. */
static const char *
setting_value(const rd_kafka_ConfigResource_t *resource, const char *name)
{
	size_t		count;
	const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(resource, &count);

	for (size_t i = 0; i < count; i++)
		if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), name) == 0)
			return rd_kafka_ConfigEntry_value(entries[i]);
	return NULL;
}

static void
answer_deletes(GcJob *job, rd_kafka_event_t *event)
{
	const rd_kafka_DescribeConfigs_result_t *result = rd_kafka_event_DescribeConfigs_result(event);
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	const rd_kafka_ConfigResource_t **resources = NULL;
	size_t		count = 0;
	const char *policy;
	const char *retention;

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR && result != NULL)
		resources = rd_kafka_DescribeConfigs_result_resources(result, &count);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR && count == 1)
		err = rd_kafka_ConfigResource_error(resources[0]);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR || count != 1)
	{
		fail(job, err != RD_KAFKA_RESP_ERR_NO_ERROR ? err : RD_KAFKA_RESP_ERR__BAD_MSG);
		return;
	}
	policy = setting_value(resources[0], "cleanup.policy");
	retention = setting_value(resources[0], "delete.retention.ms");
	gc_answer_begin(job, 1);
	if (policy == NULL || retention == NULL || strstr(policy, "compact") == NULL)
		return;
	gc_answer_row(job);
	gc_answer_text(job, retention, strlen(retention));
}

static void
ask_deletes(GcJob *job)
{
	rd_kafka_ConfigResource_t *topic = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, job->topic);
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(probe, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
	rd_kafka_queue_t *answers = rd_kafka_queue_new(probe);
	rd_kafka_event_t *event;
	int			left = Max(gc_job_left(job), 1);
	char		text[512];

	(void) rd_kafka_AdminOptions_set_request_timeout(options, left, text, sizeof(text));
	rd_kafka_DescribeConfigs(probe, &topic, 1, options, answers);
	event = rd_kafka_queue_poll(answers, left);
	if (event == NULL)
		fail(job, RD_KAFKA_RESP_ERR__TIMED_OUT);
	else
	{
		answer_deletes(job, event);
		rd_kafka_event_destroy(event);
	}
	rd_kafka_queue_destroy(answers);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_ConfigResource_destroy(topic);
}

void
gc_kafka_query(GcJob *job)
{
	if (!begin(job))
		return;
	switch (job->what)
	{
		case GC_QUERY_TOPICS:
			ask_topics(job);
			return;
		case GC_QUERY_CLUSTER:
			pg_free(job->topic);
			job->topic = NULL;
			ask_cluster(job);
			return;
		case GC_QUERY_OFFSET:
		case GC_QUERY_RECORD:
		case GC_QUERY_PEEK:
		case GC_QUERY_DELETES:
			break;
		default:
			gc_answer_fail(job, GC_TROUBLE_NONE, "unknown question");
			return;
	}
	if (job->topic == NULL || (job->partition < 0 && job->what != GC_QUERY_PEEK && job->what != GC_QUERY_DELETES))
	{
		gc_answer_fail(job, GC_TROUBLE_NO_TOPIC, "no such topic or partition");
		return;
	}
	if (job->what == GC_QUERY_DELETES)
	{
		ask_deletes(job);
		return;
	}
	gc_answer_begin(job, job->what == GC_QUERY_OFFSET ? 1 : job->what == GC_QUERY_RECORD ? 3 : 5);
	if (job->what == GC_QUERY_OFFSET)
		ask_offset(job);
	else if (job->what == GC_QUERY_RECORD)
		ask_record(job);
	else
		ask_peek(job);
}

void
gc_kafka_range(GcJob *job)
{
	if (rd_kafka_query_watermark_offsets(gc_kafka, job->topic, job->partition, &job->low, &job->high,
										 gc_job_left(job)) != RD_KAFKA_RESP_ERR_NO_ERROR)
		job->low = job->high = -1;
}

/* Reads one record there, as if asked for it, and keeps what went wrong. */
void
gc_kafka_check(GcJob *job)
{
	job->trouble = GC_TROUBLE_TRANSIENT;
	job->what = GC_QUERY_RECORD;
	if (!begin(job))
		return;
	gc_answer_begin(job, 3);
	ask_record(job);
	job->trouble = job->failed ? job->failure : GC_TROUBLE_NONE;
	job->rows_at = 0;
}

/* Some broker answers: that it does not is told by an event sooner or later, that it does again by nothing. */
void
gc_kafka_ping(GcJob *job)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err = rd_kafka_metadata(gc_kafka, 0, NULL, &metadata, gc_job_left(job));

	if (probe != NULL)
		drain();
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		rd_kafka_metadata_destroy(metadata);
		job->state = GC_SERVER_UP;
		return;
	}
	job->state = gc_kafka_state(err);
	if (job->state == 0)
		job->state = GC_SERVER_DOWN;
	snprintf(job->text, sizeof(job->text), "no broker answers: %s", rd_kafka_err2str(err));
}
