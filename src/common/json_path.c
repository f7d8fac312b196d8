/*
 * json_path.c: the tree of wanted places that json_scan.c walks.
 *
 * Built once per mapping, read for every record.  Lookup is a hash of the
 * name and, nearly always, one comparison.
 */
#include "json_scan.h"

#include "common/hashfn.h"

static GcPath *
new_path(GcArena *arena)
{
	GcPath	   *path = gc_arena_alloc(arena, sizeof(GcPath));

	memset(path, 0, sizeof(*path));
	path->slot = path->alias = -1;
	return path;
}

GcPath *
gc_path_root(GcArena *arena)
{
	return new_path(arena);
}

/* Adds a child; the array doubles when the number of children is a power of two. */
static GcPath *
add_child(GcArena *arena, GcPath *path)
{
	GcPath	   *child = new_path(arena);
	int			n = path->nchildren;

	if ((n & (n - 1)) == 0)
	{
		GcPath	  **more = gc_arena_alloc(arena, sizeof(GcPath *) * Max(n * 2, 1));

		if (n > 0)
			memcpy(more, path->child, sizeof(GcPath *) * n);
		path->child = more;
	}
	path->child[path->nchildren++] = child;
	return child;
}

GcPath *
gc_path_member(GcArena *arena, GcPath *path, const char *name, size_t len)
{
	GcPath	   *child;

	for (int i = 0; i < path->nchildren; i++)
	{
		child = path->child[i];
		if (child->name && child->name_len == len && memcmp(child->name, name, len) == 0)
			return child;
	}
	child = add_child(arena, path);
	child->name = gc_arena_text(arena, name, len);
	child->name_len = len;
	child->hash = hash_bytes((const unsigned char *) name, (int) len);
	return child;
}

GcPath *
gc_path_element(GcArena *arena, GcPath *path, int element)
{
	GcPath	   *child;

	for (int i = 0; i < path->nchildren; i++)
		if (path->child[i]->name == NULL && path->child[i]->element == element)
			return path->child[i];
	child = add_child(arena, path);
	child->element = element;
	path->has_elements = true;
	return child;
}

void
gc_path_repeats(GcArena *arena, GcPath *path)
{
	path->repeat = gc_arena_alloc(arena, sizeof(GcRepeat));
	memset(path->repeat, 0, sizeof(GcRepeat));
	path->repeat->arena = arena;
}

/* Builds the hash tables, here and below.  Recursion is bounded by GC_MAX_PATH_STEPS. */
void
gc_path_finish(GcArena *arena, GcPath *path)
{
	uint32		size = 2;

	while (size < (uint32) path->nchildren * 2)
		size *= 2;
	path->mask = size - 1;
	path->table = gc_arena_alloc(arena, sizeof(GcPath *) * size);
	memset(path->table, 0, sizeof(GcPath *) * size);
	for (int i = 0; i < path->nchildren; i++)
	{
		GcPath	   *child = path->child[i];

		if (child->name)
		{
			uint32		at = child->hash & path->mask;

			while (path->table[at])
				at = (at + 1) & path->mask;
			path->table[at] = child;
		}
		gc_path_finish(arena, child);
	}
	if (path->aliases)
	{
		gc_path_finish(arena, path->aliases);

		/* A field that is named here and is also some column's in camelCase serves both. */
		for (int i = 0; i < path->nchildren; i++)
		{
			GcPath	   *child = path->child[i];
			GcPath	   *column = child->name ? gc_path_find_alias(path, child->name, child->name_len) : NULL;

			if (column && column->slot != child->slot)
				child->alias = column->slot;
		}
	}
}

GcPath *
gc_path_find_member(const GcPath *path, const char *name, size_t len)
{
	uint32		hash = hash_bytes((const unsigned char *) name, (int) len);

	for (uint32 at = hash & path->mask; path->table[at]; at = (at + 1) & path->mask)
	{
		GcPath	   *child = path->table[at];

		if (child->hash == hash && child->name_len == len && memcmp(child->name, name, len) == 0)
			return child;
	}
	return NULL;
}

GcPath *
gc_path_find_alias(const GcPath *root, const char *name, size_t len)
{
	char		snake[NAMEDATALEN];
	size_t		snake_len;

	if (root->aliases == NULL || !gc_snake_case(name, len, snake, &snake_len))
		return NULL;
	return gc_path_find_member(root->aliases, snake, snake_len);
}

GcPath *
gc_path_find_element(const GcPath *path, int element)
{
	for (int i = 0; i < path->nchildren; i++)
		if (path->child[i]->name == NULL && path->child[i]->element == element)
			return path->child[i];
	return NULL;
}

static inline bool
is_upper(char c)
{
	return c >= 'A' && c <= 'Z';
}

/*
 * A capital starts a word, a run of capitals is one word, and the last of a
 * run belongs to what follows: guestRef, customerID, HTMLBody.  ASCII only.
 */
bool
gc_snake_case(const char *name, size_t len, char *snake, size_t *snake_len)
{
	bool		capitals = false;
	size_t		n = 0;

	if (len >= NAMEDATALEN)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		char		c = name[i];

		if (is_upper(c))
		{
			bool		after_word = i > 0 && !is_upper(name[i - 1]) && name[i - 1] != '_';
			bool		before_word = i > 0 && is_upper(name[i - 1]) && i + 1 < len &&
				name[i + 1] >= 'a' && name[i + 1] <= 'z';

			if (after_word || before_word)
				snake[n++] = '_';
			c += 'a' - 'A';
			capitals = true;
		}
		if (n + 2 >= NAMEDATALEN)
			return false;
		snake[n++] = c;
	}
	*snake_len = n;
	return capitals;
}
