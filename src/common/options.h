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

/* What a value must look like, as far as that is known without the library. */
typedef enum GcOptionForm
{
	GC_FORM_TEXT = 0,			/* printable, in one line */
	GC_FORM_BOOLEAN,
	GC_FORM_NUMBER,				/* whole, min to max */
	GC_FORM_WORD,				/* one of words, in any case */
	GC_FORM_PATH,				/* absolute */
	GC_FORM_PEM,
	GC_FORM_SECRET,				/* anything in one line */
	GC_FORM_SHELL				/* what the library puts into a command of a shell */
} GcOptionForm;

typedef struct GcOption
{
	const char *name;
	int			flags;
	GcOptionForm form;
	int64		min;
	int64		max;
	const char *words;			/* "one, two or three" */
} GcOption;

extern const GcOption gc_options[];
extern const int gc_noptions;

/* The option of this name, or NULL. */
extern const GcOption *gc_option_find(const char *name);

/*
 * Whether a value looks as it must. If not, what it must be is put into problem: "must be
 * true or false". The value itself is never part of that.
 */
extern bool gc_option_check(const GcOption *option, const char *value, char *problem, size_t size);

/* A value of GC_FORM_BOOLEAN that is true, or of GC_FORM_WORD that is this word. */
extern bool gc_option_is(const char *value, const char *word);

#endif							/* GC_OPTIONS_H */
