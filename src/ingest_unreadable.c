/*
 * ingest_unreadable.c: places in a topic behind which the reader does not come.
 *
 * Some it names itself: a batch with a wrong checksum, one that cannot be unpacked, a record that is no record or is
 * larger than may be. Others kill it: a batch that unpacks to more than its memory. When it has died twice with
 * some partition at the same offset, those partitions are suspects, and are read one at a time, batch by batch, by a
 * reader that has nothing else to do: where it moves, that partition is free of suspicion; where it dies again, that is the
 * place. Whoever died for another reason twice loses some seconds by this, and nothing else. Where there was nothing to
 * read, nothing can have killed it.
 *
 * A changelog halts at such a place, with the call that skips it. How far that must go, nobody says: a batch
 * is read whole or not at all. So the first offset behind it that can be read is looked for first, with steps that double,
 * and then by halves, by single questions to another reader, which may die of them. The changelogs of the topic wait
 * for that; everybody else reads on.
 *
 * Both are kept while the worker loads anew, which it does after each death.
 *
 * In the worker of ingest.c, at top level.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "guest_context.h"
#include "ingest.h"

#define DEATHS			2		/* at one offset, until a partition is read alone */
#define ALONE_SECONDS	60		/* of which nothing comes and nothing dies: then it is somebody else */
#define ANSWER_MS		3000
#define TRIES			3		/* at an offset of which nothing comes */

/* Where partitions were when the reader died. */
typedef struct Death
{
	char	   *topic;
	int32		partition;
	int64		offset;
	int			times;			/* in a row */
} Death;

typedef struct Search
{
	char	   *topic;
	int32		partition;
	int64		from;			/* the changelogs' position */
	int64		offset;			/* that cannot be read */
	char	   *reason;
	int64		bad;			/* the last one known to be so */
	int64		good;			/* the first one known to be readable, -1 = none yet */
	int64		step;
	int64		asked;			/* for this one, -1 = for none now */
	uint32		query;
	int			tries;
	TimestampTz until;
} Search;

static MemoryContext context = NULL;	/* of all this */
static List *deaths = NIL;
static List *searches = NIL;	/* the first one is being worked on */
static GcReader *asking = NULL;
static GcPartition *alone = NULL;	/* the only one that is read now */
static int64 alone_from;
static TimestampTz alone_since;

static MemoryContext
enter(void)
{
	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "guest_context unreadable places", ALLOCSET_SMALL_SIZES);
	return MemoryContextSwitchTo(context);
}

/*
 * Deaths
 */

static Death *
death_of(const char *topic, int32 partition)
{
	ListCell   *lc;

	foreach(lc, deaths)
	{
		Death	   *death = lfirst(lc);

		if (death->partition == partition && strcmp(death->topic, topic) == 0)
			return death;
	}
	return NULL;
}

static void
forget_deaths(void)
{
	ListCell   *lc;

	foreach(lc, deaths)
	{
		pfree(((Death *) lfirst(lc))->topic);
		pfree(lfirst(lc));
	}
	list_free(deaths);
	deaths = NIL;
}

static void
forget_death(Death *death)
{
	if (death == NULL)
		return;
	deaths = list_delete_ptr(deaths, death);
	pfree(death->topic);
	pfree(death);
}

/* The reader died when it was to read a partition from this offset on. */
void
gc_unreadable_died(const char *topic, int32 partition, int64 offset)
{
	MemoryContext caller = enter();
	Death	   *death = death_of(topic, partition);

	if (death == NULL)
	{
		death = palloc0(sizeof(Death));
		death->topic = pstrdup(topic);
		death->partition = partition;
		deaths = lappend(deaths, death);
	}
	if (death->offset != offset)
		death->times = 0;
	death->offset = offset;
	death->times++;
	MemoryContextSwitchTo(caller);
}

/* The same for all that were being read. */
void
gc_unreadable_died_reading(const char *how)
{
	ListCell   *lc;

	if (alone != NULL && alone->reached == alone_from)
	{
		forget_death(death_of(alone->topic->name, alone->partition));
		gc_unreadable_found(alone, alone->reached, psprintf("the reader %s each time it came here", how));
		return;
	}
	foreach(lc, gc_work.topics)
	{
		GcTopic    *topic = lfirst(lc);

		for (int i = 0; i < topic->npartitions; i++)
			if (topic->partitions[i].epoch != 0 && topic->partitions[i].reached < topic->partitions[i].high)
				gc_unreadable_died(topic->name, i, topic->partitions[i].reached);
	}
}

/* Is the next reader to fetch single batches, for one of the partitions may kill it? */
bool
gc_unreadable_suspected(void)
{
	ListCell   *lc;

	alone = NULL;
	foreach(lc, deaths)
		if (((Death *) lfirst(lc))->times >= DEATHS)
			return true;
	return false;
}

/* Then this says which: the first one of those loaded that has something to read at such an offset; NULL: none. */
GcPartition *
gc_unreadable_alone(void)
{
	ListCell   *lc;

	foreach(lc, gc_work.topics)
	{
		GcTopic    *topic = lfirst(lc);

		for (int i = 0; i < topic->npartitions; i++)
		{
			Death	   *death = death_of(topic->name, i);
			int64		from = gc_ingest_needed(topic, i);

			if (death == NULL || death->times < DEATHS || from < 0 || from > death->offset ||
				from >= topic->partitions[i].high || gc_unreadable(&topic->partitions[i], from))
				continue;
			alone = &topic->partitions[i];
			alone_from = from;
			alone_since = GetCurrentTimestamp();
			return alone;
		}
	}
	/* it was something else */
	forget_deaths();
	return NULL;
}

/* What all others wait for, NULL = nothing. */
char *
gc_unreadable_waits(void)
{
	return alone == NULL ? NULL :
		psprintf("the reader has died twice at the same place, so partitions are read one at a time, now partition %d of topic \"%s\"",
				 alone->partition, alone->topic->name);
}

/*
 * Places
 */

static Search *
search_of(const GcPartition *partition)
{
	ListCell   *lc;

	foreach(lc, searches)
	{
		Search	   *search = lfirst(lc);

		if (search->partition == partition->partition && strcmp(search->topic, partition->topic->name) == 0)
			return search;
	}
	return NULL;
}

static void
stop_asking(void)
{
	if (asking != NULL)
		gc_reader_stop(asking);
	asking = NULL;
}

static void
forget_search(Search *search)
{
	if (search == linitial(searches))
		stop_asking();
	searches = list_delete_ptr(searches, search);
	pfree(search->topic);
	pfree(search->reason);
	pfree(search);
}

/* A partition cannot be read at an offset: all changelogs that come there halt, as soon as it is known how to go on. */
void
gc_unreadable_found(GcPartition *partition, int64 offset, const char *reason)
{
	MemoryContext caller;
	Search	   *search;

	if (search_of(partition) != NULL)
		return;
	caller = enter();
	search = palloc0(sizeof(Search));
	search->topic = pstrdup(partition->topic->name);
	search->partition = partition->partition;
	search->from = partition->reached;
	search->offset = search->bad = offset;
	search->reason = pstrdup(reason);
	search->good = search->asked = -1;
	search->step = 1;
	searches = lappend(searches, search);
	MemoryContextSwitchTo(caller);
}

/* Is a partition not to be read from here on, because it is known that it cannot be? */
bool
gc_unreadable(GcPartition *partition, int64 from)
{
	Search	   *search = search_of(partition);

	if (search == NULL)
		return false;
	if (search->from == from)
	{
		partition->problem = MemoryContextStrdup(partition->topic->context, search->reason);
		return true;
	}
	forget_search(search);		/* somebody has moved the changelogs */
	return false;
}

/* The changelogs that are there halt, when what they have has been applied. */
static void
halt(GcTopic *topic, const Search *search)
{
	bool		nobody = true;
	ListCell   *lc;

	foreach(lc, topic->ingests)
	{
		GcIngest   *ingest = lfirst(lc);

		if (ingest->stopped || ingest->halt_reason != NULL || ingest->progress[search->partition].reached > search->offset)
			continue;
		ingest->halt_reason = MemoryContextStrdup(topic->context, psprintf("unreadable: %s", search->reason));
		ingest->halt_partition = search->partition;
		ingest->halt_offset = search->offset;
		ingest->halt_through = search->good - 1;
		nobody = false;
	}
	if (nobody)
		topic->stale = gc_work.refresh = true;	/* they have been moved on */
}

static void
ask(Search *search)
{
	MemoryContext caller;

	if (search->asked < 0 && search->good < 0)
	{
		search->asked = search->bad + search->step;
		search->step *= 2;
		search->tries = 0;
	}
	else if (search->asked < 0)
	{
		search->asked = search->bad + (search->good - search->bad) / 2;
		search->tries = 0;
	}
	if (asking == NULL)
	{
		gc_ingest_begin();
		caller = enter();
		asking = gc_reader_start(gc_work.server, gc_work.owner, (uint64) gc_reader_memory * 1024, true);
		MemoryContextSwitchTo(caller);
		gc_ingest_commit();
	}
	search->tries++;
	search->query = gc_reader_ask(asking, GC_QUERY_RECORD, ANSWER_MS, search->topic, search->partition, search->asked);
	search->until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 2 * ANSWER_MS);
}

/* What an answer says of the offset that was asked for. */
static void
judge(Search *search, GcFrame *answer)
{
	bool		ok = gc_frame_get_u8(answer);
	GcTrouble	trouble;

	(void) gc_frame_string(answer);
	trouble = gc_frame_get_u8(answer);
	search->query = 0;
	if (ok)
		search->good = search->asked;
	else if (trouble == GC_TROUBLE_UNREADABLE || trouble == GC_TROUBLE_TOO_LARGE ||
			 (trouble == GC_TROUBLE_TRANSIENT && search->tries >= TRIES))
		search->bad = search->asked;
	else
		return;					/* once more */
	search->asked = -1;
}

/* Takes what has come; then asks the next question. */
void
gc_unreadable_turn(void)
{
	Search	   *search;
	GcTopic    *topic = NULL;
	GcFrame		frame;
	ListCell   *lc;

	if (alone != NULL && (alone->reached > alone_from || search_of(alone) != NULL ||
						  TimestampDifferenceExceeds(alone_since, GetCurrentTimestamp(), ALONE_SECONDS * 1000)))
	{
		forget_death(death_of(alone->topic->name, alone->partition));
		gc_work.reload = true;	/* with the next one, or all */
	}
	if (searches == NIL)
		return;
	search = linitial(searches);
	foreach(lc, gc_work.topics)
		if (strcmp(((GcTopic *) lfirst(lc))->name, search->topic) == 0)
			topic = lfirst(lc);
	if (topic == NULL || (topic->npartitions > 0 && search->partition >= topic->npartitions))
	{
		forget_search(search);	/* nobody reads it any more */
		return;
	}
	if (asking != NULL)
	{
		gc_reader_pump(asking);
		while (gc_reader_next(asking, &frame))
			if (frame.type == GC_FRAME_ANSWER && gc_frame_get_u32(&frame) == search->query && search->query != 0)
				judge(search, &frame);
		if (asking->closed && search->query != 0)
		{
			search->bad = search->asked;	/* it died of it */
			search->asked = -1;
		}
		if (asking->closed)
			stop_asking();
	}
	if (search->good >= 0 && search->good - search->bad <= 1)
	{
		if (topic->npartitions == 0)
			return;				/* it cannot be told who comes here */
		halt(topic, search);
		forget_search(search);
	}
	else if (gc_work.server_problem == NULL && !gc_work.silent && topic->npartitions > 0 &&
			 (asking == NULL || search->query == 0 || GetCurrentTimestamp() > search->until))
		ask(search);
}
