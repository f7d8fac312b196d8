/*
 * kafka_conf.c: the library's options: the server's, checked once more, and ours.
 *
 * Values are secrets or may be: they are in no message, and the library's own messages about a bad
 * value, which quote it, are not passed on.
 */
#include "kafka.h"

#include "common/options.h"

#define MB ((int64) 1024 * 1024)
#define RECORD_COST 320			/* bytes of memory of a record in the queue besides its own */

static rd_kafka_conf_t *base;	/* with the server's options; every handle is made from a copy */
static char *group;
static uint64 memory;

/*
 * Up to 2.6.0 the library repeats its part of SCRAM's nonce (confluentinc/librdkafka#4895), which Kafka 4 does not take any
 * more: it says that the password is wrong.
 */
const char *
gc_kafka_login_advice(void)
{
	char		mechanism[32] = "";
	size_t		size = sizeof(mechanism);

	if (rd_kafka_version() >= 0x020601ff || rd_kafka_conf_get(base, "sasl.mechanism", mechanism, &size) != RD_KAFKA_CONF_OK ||
		strncmp(mechanism, "SCRAM", 5) != 0)
		return "";
	return "; if the password is right: librdkafka before 2.6.1 cannot log in by SCRAM at Kafka 4, by PLAIN over TLS it can";
}

const char *
gc_kafka_group(void)
{
	return group;
}

/* An option of the server's or of ours. */
static bool
set(rd_kafka_conf_t *conf, const char *name, const char *value, char *text, size_t size)
{
	char		unused[512];	/* quotes the value */
	rd_kafka_conf_res_t result = rd_kafka_conf_set(conf, name, value, unused, sizeof(unused));

	explicit_bzero(unused, sizeof(unused));
	if (result == RD_KAFKA_CONF_OK)
		return true;
	snprintf(text, size, result == RD_KAFKA_CONF_UNKNOWN ? "the library does not know option \"%s\"" :
			 "option \"%s\" has a value that the library refuses", name);
	return false;
}

static bool
set_number(rd_kafka_conf_t *conf, const char *name, int64 number, char *text, size_t size)
{
	char		value[32];

	snprintf(value, sizeof(value), INT64_FORMAT, number);
	return set(conf, name, value, text, size);
}

/* One that older versions of the library do not have, and that is no matter of right or wrong. */
static void
set_if_known(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		unused[512];

	if (rd_kafka_conf_set(conf, name, value, unused, sizeof(unused)) != RD_KAFKA_CONF_OK)
		return;
}

static const char *const ours_always[][2] = {
	{"enable.auto.commit", "false"},	/* the server's ledger is what counts */
	{"enable.auto.offset.store", "false"},
	{"auto.offset.reset", "error"}, /* never go on elsewhere silently */
	{"check.crcs", "true"},
	{"enable.partition.eof", "true"},
	{"allow.auto.create.topics", "false"},
	{"log.queue", "true"},		/* no callback in a thread of the library's */
	{"statistics.interval.ms", "0"},
	{"log.connection.close", "false"},
	{"topic.metadata.propagation.max.ms", "3000"},	/* a topic that is not there is told after this */
};

/* Where the server says nothing. */
static const char *const ours_else[][2] = {
	{"client.id", "guest_context"},
	{"isolation.level", "read_committed"},
	{"fetch.wait.max.ms", "100"},	/* a partition that is new waits for the end of the others' question */
	{"reconnect.backoff.max.ms", "2000"},	/* flowing again soon after a broker is back */
};

/* A number that the conf has. */
static int64
get_number(const rd_kafka_conf_t *conf, const char *name)
{
	char		value[64];
	size_t		size = sizeof(value);

	return rd_kafka_conf_get(conf, name, value, &size) == RD_KAFKA_CONF_OK ? strtoll(value, NULL, 10) : 0;
}

/*
 * Memory is for the fetch queue, what is on its way into it, what is held, decoded and to be written. The queue
 * is one for all partitions: they are all forwarded to the consumer's, whose size the library compares
 * with its limits, one for bytes of records and one for their number, for a small record costs more than its
 * bytes. It should hold a second or two of what the server can store: the library does not fetch for a second
 * once it has been full (before it had fetch.queue.backoff.ms).
 */
static bool
share_memory(const GcSettings *settings, char *text, size_t size)
{
	int64		all = memory ? (int64) Min(memory, (uint64) 4096 * MB) : 128 * MB;
	int64		queue = Min(Max(all / 4, 2 * MB), 256 * MB);
	int64		fetch = Min(Max(all / 8, MB), 64 * MB);
	int64		receive = get_number(base, "receive.message.max.bytes");

	if (!set_number(base, "queued.max.messages.kbytes", queue / 1024, text, size) ||
		!set_number(base, "queued.min.messages", Min(Max(all * 2 / 5 / RECORD_COST, 10000), 10000000), text, size))
		return false;
	if (gc_setting(settings, "receive.message.max.bytes") != NULL)
		fetch = Min(fetch, receive - 512);

	/* the library wants message.max.bytes <= fetch.max.bytes, and that below receive.message.max.bytes */
	if (gc_setting(settings, "fetch.max.bytes") == NULL && fetch > 0)
	{
		if (gc_setting(settings, "message.max.bytes") == NULL &&
			!set_number(base, "message.max.bytes", Max(Min(fetch, 1000000), 1000), text, size))
			return false;
		if (!set_number(base, "fetch.max.bytes", Max(fetch, get_number(base, "message.max.bytes")), text, size))
			return false;
	}
	if (gc_setting(settings, "fetch.message.max.bytes") == NULL &&
		!set_number(base, "fetch.message.max.bytes", Max(Min(fetch, MB), 1024), text, size))
		return false;
	return true;
}

bool
gc_kafka_settings(const GcSettings *settings, char *text, size_t size)
{
	const char *value;

	memory = settings->memory;
	base = rd_kafka_conf_new();
	for (int i = 0; i < lengthof(ours_else); i++)
		if (!set(base, ours_else[i][0], ours_else[i][1], text, size))
			return false;
	set_if_known(base, "fetch.queue.backoff.ms", "20");
	for (int i = 0; i < settings->noptions; i++)
	{
		const char *name = settings->options[i].name;
		const GcOption *option = gc_option_find(name);
		char		problem[128];

		if (option == NULL || (option->flags & GC_OPTION_KIND_FILE))
		{
			snprintf(text, size, "option \"%.64s\" is not one of servers of TYPE 'kafka'", name);
			return false;
		}
		if (!gc_option_check(option, settings->options[i].value, problem, sizeof(problem)))
		{
			snprintf(text, size, "option \"%s\" %s", name, problem);
			return false;
		}
		if (strcmp(name, "group.id") == 0)
			continue;
		if (option->flags & GC_OPTION_OURS)
		{
			/* the server has read the file and sends what is in it */
			snprintf(text, size, "option \"%s\" means nothing to the reader program", name);
			return false;
		}
		if (!set(base, name, settings->options[i].value, text, size))
			return false;
	}
	if (gc_setting(settings, "bootstrap.servers") == NULL)
	{
		snprintf(text, size, "option \"bootstrap.servers\" is missing");
		return false;
	}
	value = gc_setting(settings, "group.id");
	group = pg_strdup(value && value[0] ? value : "guest_context");
	if (!set(base, "group.id", group, text, size))
		return false;
	for (int i = 0; i < lengthof(ours_always); i++)
		if (!set(base, ours_always[i][0], ours_always[i][1], text, size))
			return false;
	return share_memory(settings, text, size);
}

rd_kafka_t *
gc_kafka_new(GcKafkaUse use, char *text, size_t size)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_dup(base);
	rd_kafka_t *kafka;
	char		reason[512];

	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_FETCH | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG |
							 RD_KAFKA_EVENT_OFFSET_COMMIT);
	if (use == GC_KAFKA_PROBE)
	{
		/*
		 * The library fetches ahead until there is as much as this: what lies behind the record may be what it dies of. At
		 * the end of a partition the broker keeps its question for a while, and what is asked of another partition waits
		 * behind that.
		 */
		if (!set(conf, "fetch.wait.max.ms", "1", text, size) ||
			!set(conf, "queued.min.messages", "1", text, size) ||
			!set(conf, "queued.max.messages.kbytes", "1024", text, size) ||
			!set_number(conf, "fetch.message.max.bytes",
						Min(get_number(conf, "fetch.message.max.bytes"), 64 * 1024), text, size))
		{
			rd_kafka_conf_destroy(conf);
			return NULL;
		}
	}
	kafka = rd_kafka_new(RD_KAFKA_CONSUMER, conf, reason, sizeof(reason));
	if (kafka == NULL)
	{
		/* takes the conf only when it succeeds; its reasons name options, and files that cannot be read */
		rd_kafka_conf_destroy(conf);
		snprintf(text, size, "the library refuses its options: %s", reason);
	}
	return kafka;
}
