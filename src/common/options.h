/*
 * options.h: the options of a server and of a user mapping, by exact name. The wrapper's
 * validator and the reader program both look here, so that what is not listed never
 * gets to the library, whoever asks.
 */
#ifndef GC_OPTIONS_H
#define GC_OPTIONS_H

/* What an option needs beyond being listed. */
#define GC_OPTION_SERVER		0x01	/* of a server */
#define GC_OPTION_MAPPING		0x02	/* of a user mapping */
#define GC_OPTION_SECRET		0x04	/* never shown, logged or kept in a server's options */
#define GC_OPTION_FILE			0x08	/* names a file of the server: pg_read_server_files */
#define GC_OPTION_OURS			0x10	/* means something to us and not to the library */
#define GC_OPTION_KIND_FILE		0x20	/* of servers of TYPE 'file'; the others are of kafka's */

typedef struct GcOption
{
	const char *name;
	int			flags;
} GcOption;

extern const GcOption gc_options[];
extern const int gc_noptions;

/* The option of this name, or NULL. */
extern const GcOption *gc_option_find(const char *name);

#endif							/* GC_OPTIONS_H */
