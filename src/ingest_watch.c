/*
 * ingest_watch.c: is there news from the server, and if not, what does each changelog wait for?
 *
 * Some faults raise no event at all: a broker that is frozen, a network that swallows packets. So the
 * worker asks by its own clock: every few seconds each topic's partitions, and one record that it has read before. No
 * answer in time means that there is no news. The answers tell of new partitions, of partitions that
 * do not go on though there is more, and of a topic that has been deleted and made again: there the record
 * is another one.
 *
 * The reason that a changelog waits is worked out here, from everything that is known, and noted in the
 * catalogue when it changes; so whoever learns of a trouble only has to remember it.
 *
 * Anchors. The record that is asked for was committed before the one that was asked for last had been found to be the
 * same: so a right answer proves all that was read until that question, and only then a newer
 * record takes its place. What was read between a replacement and the question is named in the halt.
 *
 * In the worker of ingest.c, at top level.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ingest.h"

#define ASK_SECONDS			3
#define SILENT_SECONDS		5	/* without an answer */
#define BEHIND_SECONDS		10	/* a partition does not go on */
#define OPEN_SECONDS		5	/* a transaction is open */
#define REFUSED_SECONDS		30	/* a login */

static bool
longer_than(TimestampTz since, int seconds)
{
	return since != 0 && TimestampDifferenceExceeds(since, GetCurrentTimestamp(), seconds * 1000);
}

static char *
second_of(TimestampTz time)
{
	return pstrdup(timestamptz_to_str(time - time % USECS_PER_SEC));
}

/* What is the matter with a partition that goes away by itself; NULL: nothing. */
static char *
partition_waits(const GcIngest *ingest, const GcPartition *partition, char **hint)
{
	int64		at = partition->reached;

	if (partition->problem != NULL)
		return psprintf("partition %d: %s", partition->partition, partition->problem);
	if (longer_than(partition->open_since, OPEN_SECONDS) && ingest->progress[partition->partition].reached >= at)
	{
		*hint = psprintf("kafka-transactions.sh --bootstrap-server … describe-producers --topic %s --partition %d",
						 ingest->topic->name, partition->partition);
		return psprintf("an open transaction holds back partition %d from offset %lld on, since %s", partition->partition,
						(long long) at, second_of(partition->open_since));
	}
	if (longer_than(partition->behind_since, BEHIND_SECONDS) && ingest->nitems == 0)
		return psprintf("partition %d ends at offset %lld, but no record comes from offset %lld on, since %s",
						partition->partition, (long long) partition->high, (long long) at, second_of(partition->behind_since));
	return NULL;
}

/* Why a topic cannot be read now. That the reader has died is no matter of the topic, and is told of all alike. */
void
gc_watch_problem(GcTopic *topic, const char *problem)
{
	char	   *before = topic->problem;

	topic->problem = MemoryContextStrdup(topic->context, gc_work.reader->closed ? problem :
										 psprintf("topic \"%s\": %s", topic->name, problem));
	if (before != NULL)
		pfree(before);
}

void
gc_watch_changelog(GcIngest *ingest)
{
	GcTopic    *topic = ingest->topic;
	const char *server = quote_literal_cstr(ingest->changelog->server);
	const char *reason = NULL;
	char	   *hint = NULL;

	if (ingest->stopped)
		return;
	if (gc_work.no_space != NULL)
		reason = gc_work.no_space;
	else if (ingest->failures > 0)
		reason = ingest->failure;
	else if (gc_work.server_problem != NULL || gc_work.silent)
	{
		reason = gc_work.server_problem ? gc_work.server_problem :
			psprintf("no news from the server since %s", second_of(gc_work.heard_at));
		hint = psprintf("SELECT * FROM guest_context.check_server(%s);", server);
	}
	else if (topic->problem != NULL)
	{
		reason = topic->problem;
		if (!gc_work.reader->closed)
			hint = psprintf("SELECT * FROM guest_context.topics(%s);", server);
	}
	else
		reason = gc_unreadable_waits();
	for (int i = 0; i < topic->npartitions && reason == NULL && ingest->progress != NULL; i++)
		reason = partition_waits(ingest, &topic->partitions[i], &hint);
	gc_ingest_waits(ingest, reason, hint);
}

/* Asks for a record of some partition that has one, each in its turn. */
static void
ask_for_anchor(GcTopic *topic)
{
	for (int i = 1; i <= topic->npartitions; i++)
	{
		int			next = (topic->anchor_partition + i) % topic->npartitions;
		GcPartition *partition = &topic->partitions[next];

		if (partition->proven.offset < 0 || partition->epoch == 0)
			continue;
		topic->anchor_partition = next;
		topic->anchor_next = partition->anchor.offset > partition->proven.offset ? partition->anchor : partition->proven;
		topic->anchor_question = gc_ingest_ask_later(GC_QUERY_RECORD, topic->name, next, partition->proven.offset);
		return;
	}
}

static void
ask_all(void)
{
	ListCell   *lc;

	gc_work.asked_at = GetCurrentTimestamp();
	foreach(lc, gc_work.topics)
	{
		GcTopic    *topic = lfirst(lc);

		if (topic->ingests == NIL)
			continue;
		for (int i = 0; i < topic->npartitions; i++)
			topic->partitions[i].reached_asked = topic->partitions[i].reached;
		if (topic->question == 0)
			topic->question = gc_ingest_ask_later(GC_QUERY_TOPICS, topic->name, -1, 0);
		if (topic->anchor_question == 0 && topic->npartitions > 0)
			ask_for_anchor(topic);
	}
}

static bool
any_pending(const GcTopic *topic)
{
	ListCell   *lc;

	foreach(lc, topic->ingests)
		if (((GcIngest *) lfirst(lc))->nitems > 0)
			return true;
	return false;
}

/* Partitions as they are now. */
static void
take_partitions(GcTopic *topic, GcFrame *answer, const char *problem)
{
	int64	   *lows;
	int64	   *highs;
	int			npartitions;

	topic->question = 0;
	if (answer == NULL)
	{
		gc_watch_problem(topic, problem);
		return;
	}
	npartitions = gc_answer_partitions(answer, &lows, &highs);
	for (int i = 0; i < npartitions; i++)
		if (lows[i] < 0 || highs[i] < 0)
			return;				/* no leader just now: its own trouble will tell */
	if (npartitions != topic->npartitions)
		gc_work.reload = true;
	else if (topic->problem != NULL)
	{
		pfree(topic->problem);
		topic->problem = NULL;
	}
	for (int i = 0; i < Min(npartitions, topic->npartitions); i++)
	{
		GcPartition *partition = &topic->partitions[i];

		if (partition->epoch == 0)
			continue;
		if (partition->open_since == 0)
			partition->high = Max(highs[i], partition->reached);
		if (highs[i] <= partition->reached)
			partition->behind_since = 0;
		else if (partition->behind_since == 0)
			partition->behind_since = GetCurrentTimestamp();
		else if (longer_than(partition->behind_since, BEHIND_SECONDS) && !partition->assigned_again && !any_pending(topic))
		{
			/* the reader looks for what is wrong at the beginning, not when it has been at the end */
			partition->assigned_again = true;
			gc_partition_assign(partition, partition->reached);
		}
		if (highs[i] < partition->reached_asked)
			gc_work.reload = true;	/* which finds out what that means */
	}
}

static void
take_anchor(GcTopic *topic, GcFrame *answer)
{
	GcPartition *partition = &topic->partitions[topic->anchor_partition];
	bool		proven;
	ListCell   *lc;

	topic->anchor_question = 0;
	if (answer == NULL)
		return;
	if (!gc_anchor_differs(&partition->proven, answer, &proven))
	{
		/* where it is gone, a newer one is all that there is */
		partition->proven = topic->anchor_next;
		return;
	}
	foreach(lc, topic->ingests)
	{
		GcIngest   *ingest = lfirst(lc);

		if (!ingest->stopped)
			gc_ingest_halt(ingest, GC_HALT_TOPIC, partition->partition, partition->proven.offset,
						   psprintf("topic replaced: offset %lld of partition %d is another record now; what was read up to offset %lld may be of either",
									(long long) partition->proven.offset, partition->partition,
									(long long) partition->reached), NULL);
	}
	gc_work.reload = true;
}

void
gc_watch_answer(uint32 query, GcFrame *answer, const char *problem)
{
	ListCell   *lc;

	if (query == 0)
		return;					/* nobody has asked that */
	if (answer != NULL)
		gc_work.heard_at = GetCurrentTimestamp();
	foreach(lc, gc_work.topics)
	{
		GcTopic    *topic = lfirst(lc);

		if (query == topic->question)
			take_partitions(topic, answer, problem);
		else if (query == topic->anchor_question)
			take_anchor(topic, answer);
	}
}

/* Every half second; drained: all has been taken that the reader has sent. */
void
gc_watch(bool drained)
{
	bool		unanswered = false;
	ListCell   *lc;

	foreach(lc, gc_work.topics)
		unanswered |= ((GcTopic *) lfirst(lc))->question != 0;
	if (drained)
		gc_work.silent = unanswered && longer_than(gc_work.asked_at, SILENT_SECONDS) &&
			longer_than(gc_work.heard_at, SILENT_SECONDS);
	if (longer_than(gc_work.refused_at, REFUSED_SECONDS))
		gc_work.reload = true;	/* a file may hold another password by now */
	if (!unanswered && longer_than(gc_work.asked_at, ASK_SECONDS))
		ask_all();
	foreach(lc, gc_work.topics)
	{
		ListCell   *lc2;

		foreach(lc2, ((GcTopic *) lfirst(lc))->ingests)
			gc_watch_changelog(lfirst(lc2));
	}
}
