# Random queries over the entities of a story.
#
# A query is a text with {0}, {1} ... where entities go: once the views of truth,
# once plain tables with the rows that ought to win. It gives one column of text;
# its rows are compared as a multiset, so what it says must not depend on their
# order, nor on which of several texts of one key a GROUP BY happens to show.
package Property::Query;

use strict;
use warnings;
use utf8;

use Property::Types qw(one_of chance quote_name quote_value stamp);
use Property::Story;

# The queries by kind; all() is asked of every entity at every check.
our %kind = (
	filter => \&filter, point => \&point, keys => \&keys_in, lookup => \&lookup, by_parent => \&by_parent,
	join => \&join_parent, outer_join => \&outer_join, exists => \&exists, in_parents => \&in_parents,
	correlated => \&correlated, aggregate => \&aggregate, top => \&top, self_join => \&self_join,
	window => \&window, extremes => \&extremes, distinct => \&distinct, union => \&union, cte => \&cte,
	lateral => \&lateral_top, rollup => \&rollup, odd_point => \&odd_point, scalar => \&scalar, key_and_more => \&key_and_more,
	part_of_key => \&part_of_key);

sub all { my ($entity) = @_; return "SELECT e::text FROM {$entity->{n}} e" }

# All of it by processes that do not keep step: one waits now and then, between one row and the next.
sub slow { my ($play, $entity) = @_; return all($entity) . " WHERE $play->{schema}.slow(e.val)" }

# key columns of an alias, or the columns that hold the parent's key
sub columns { my ($alias, $names) = @_; return map { "$alias." . quote_name($_) } @$names }

sub equal
{
	my ($left, $right) = @_;
	return join ' AND ', map { "$left->[$_] = $right->[$_]" } 0 .. $#$left;
}

# The key of some record, or now and then of none.
sub some_key
{
	my ($play, $entity) = @_;
	my $story = $play->{story};
	return Property::Types::key_texts($entity->{key_types}, int rand $story->{histories} + $story->{twins}, int rand($story->{wide} ? 20 : 11));
}

sub key_literals
{
	my ($play, $entity) = @_;
	my @texts = some_key($play, $entity);
	my @types = map { Property::Types::key_type_sql($_, $play->{schema}) =~ s/ COLLATE .*//r } @{ $entity->{key_types} };
	return map { quote_value($texts[$_]) . "::$types[$_]" } 0 .. $#texts;
}

sub parent_and_child
{
	my ($play) = @_;
	my $child = one_of(grep { defined $_->{parent} } $play->entities) or return;
	return ($play->{story}{entities}[ $child->{parent} ], $child);
}

sub some_entity { my ($play) = @_; return one_of($play->entities) }

sub predicate
{
	my ($play, $entity, $alias) = @_;
	my $version = "$alias." . quote_name($entity->{version});
	my $time = sub { quote_value(stamp($play->{story}{base} - int rand Property::Story::OLDEST_VERSION)) };
	my $column = one_of(grep { $_->{role} ne 'version' } @{ $entity->{columns} });
	my $name = "$alias." . quote_name($column->{name});
	my @some = (
		"$version >= " . $time->(), "$version < " . $time->(), "$name IS NULL", "$name IS NOT NULL",
		"$alias.amount > " . int rand 1000, "$alias.amount < " . int(rand 1000) . " OR $name IS NULL",
		"$alias.val LIKE '" . int(rand 10) . "%'", "hashtext($alias.val) % 3 = 0",
		"NOT ($version BETWEEN " . $time->() . ' AND ' . $time->() . ')',
		'ROW(' . join(', ', columns($alias, $entity->{key})) . ') = ROW(' . join(', ', key_literals($play, $entity)) . ')');
	return '(' . one_of(@some) . ')';
}

sub filter
{
	my ($play) = @_;
	my $entity = some_entity($play);
	return "SELECT e::text FROM {$entity->{n}} e WHERE " . join ' AND ', map { predicate($play, $entity, 'e') } 1 .. 1 + rand 2;
}

sub point
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my @key = columns('e', $entity->{key});
	return join ' UNION ALL ', map { "SELECT '$_' || e.val FROM {$entity->{n}} e WHERE " . equal(\@key, [ key_literals($play, $entity) ]) } 1 .. 4;
}

# A key that is compared in other ways than column = constant of its type.
sub odd_point
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my @key = columns('e', $entity->{key});
	my @literals = key_literals($play, $entity);
	my $i = int rand @key;
	my $type = $entity->{key_types}[$i];
	my ($column, $literal) = ($key[$i], $literals[$i]);
	my @odd = (
		"$column IN ($literal, NULL)",
		"$column = (SELECT $literal OFFSET 0)", "$column IS NOT DISTINCT FROM $literal", "$column = $literal AND $column = $column",
		"($column = $literal OR e.val = 'no')", "NOT ($column <> $literal)", "$column = coalesce(NULL, $literal)", "$column <= $literal AND $column >= $literal");

	push @odd, "$column = ANY (ARRAY[$literal, " . (key_literals($play, $entity))[$i] . '])' unless $type eq 'numerics';
	push @odd, "$column = ${literal}::bigint", "$column = ${literal}::numeric", "$column = ${literal}::float8" if $type =~ /^(?:int|ref|half)$/;
	push @odd, "$column = ${literal}::timestamptz", "$column = ${literal}::timestamp" if $type eq 'date';
	push @odd, "$column = (${literal} AT TIME ZONE 'UTC')::timestamp" if $type eq 'timestamptz';
	push @odd, "$column = ${literal}::name", "$column = ${literal}::varchar" if $type =~ /^(?:text|name|domain|varchar_c)$/;
	# by its bytes, not by its collation
	push @odd, "$column = $literal COLLATE \"C\"", "$column COLLATE \"C\" LIKE 'K%'" if $type =~ /no_case/;
	push @odd, "$column = $literal COLLATE \"POSIX\"" if $type =~ /^(?:text|name|varchar_c|tenant)$/;
	$literals[$i] = undef;
	return 'SELECT e.val FROM {' . $entity->{n} . '} e WHERE '
	  . join ' AND ', one_of(@odd), map { "$key[$_] = $literals[$_]" } grep { defined $literals[$_] } 0 .. $#key;
}

# One row by its key for each row of another reading; two winners of a key would be an error.
sub scalar
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my $equal = equal([ columns('i', $entity->{key}) ], [ columns('e', $entity->{key}) ]);
	return "SELECT concat_ws('|', e.val, (SELECT i.val FROM {$entity->{n}} i WHERE $equal),"
	  . " EXISTS (SELECT FROM {$entity->{n}} i WHERE $equal AND " . predicate($play, $entity, 'i') . ")) FROM {$entity->{n}} e WHERE "
	  . predicate($play, $entity, 'e');
}

# A key and a condition that an older version may meet though the newest does not.
sub key_and_more
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my @key = columns('e', $entity->{key});
	return join ' UNION ALL ', map {
		my $where = equal(\@key, [ key_literals($play, $entity) ]) . ' AND ' . predicate($play, $entity, 'e');
		one_of("SELECT '$_' || e.val FROM {$entity->{n}} e WHERE $where",
			"SELECT '$_' || count(*) FROM {$entity->{n}} e WHERE $where",
			"SELECT '$_' || x.val FROM (SELECT e.val FROM {$entity->{n}} e WHERE $where ORDER BY e.val LIMIT 1) x",
			"SELECT '$_' || coalesce(x.val, '') FROM (VALUES (1)) o(n) LEFT JOIN (SELECT e.val FROM {$entity->{n}} e WHERE $where) x ON o.n = 1",
			"SELECT '$_' || a.val || b.val FROM {$entity->{n}} a JOIN {$entity->{n}} b ON "
			  . equal([ columns('a', $entity->{key}) ], [ columns('b', $entity->{key}) ]) . ' WHERE ' . $where =~ s/\be\./a./gr)
	} 1 .. 4;
}

# The first columns of a key, or a range of it.
sub part_of_key
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my @key = columns('e', $entity->{key});
	my ($from, $to) = map { (key_literals($play, $entity))[0] } 1, 2;
	return 'SELECT e.val FROM {' . $entity->{n} . "} e WHERE $key[0] "
	  . one_of("= $from", "> $from", "< $from", "BETWEEN $from AND $to") . (chance(30) ? ' AND ' . predicate($play, $entity, 'e') : '');
}

sub keys_in
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my $row = 'ROW(' . join(', ', columns('e', $entity->{key})) . ')';
	my $in = join ', ', map { @$_ == 1 ? $_->[0] : 'ROW(' . join(', ', @$_) . ')' } map { [ key_literals($play, $entity) ] } 1 .. 12;
	return "SELECT e.val FROM {$entity->{n}} e WHERE " . (@{ $entity->{key} } == 1 ? (columns('e', $entity->{key}))[0] : $row) . " IN ($in)";
}

# Many keys, one after the other, through one plan.
sub lookup
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my @asked = map { "c$_" } 0 .. $#{ $entity->{key} };
	my $values = join ', ', map { '(' . join(', ', $_, key_literals($play, $entity)) . ')' } 1 .. 40;
	return "SELECT s.n || '=' || coalesce(e.val, 'none') FROM (VALUES $values) s(n, @{[ join ', ', @asked ]})"
	  . " LEFT JOIN LATERAL (SELECT i.val FROM {$entity->{n}} i WHERE "
	  . equal([ columns('i', $entity->{key}) ], [ map { "s.$_" } @asked ]) . ' OFFSET 0) e ON true';
}

sub by_parent
{
	my ($play) = @_;
	my ($parent, $child) = parent_and_child($play) or return;
	my @columns = columns('e', $child->{parent_columns});
	return join ' UNION ALL ', map { "SELECT '$_' || e.val FROM {$child->{n}} e WHERE " . equal(\@columns, [ key_literals($play, $parent) ]) } 1 .. 4;
}

sub join_condition
{
	my ($parent, $child) = @_;
	return equal([ columns('p', $parent->{key}) ], [ columns('c', $child->{parent_columns}) ]);
}

sub join_parent
{
	my ($play) = @_;
	my ($parent, $child) = parent_and_child($play) or return;
	my $where = chance(60) ? ' WHERE ' . predicate($play, one_of([ $parent, 'p' ], [ $child, 'c' ])->@*) : '';
	return "SELECT p.val || '/' || c.val FROM {$parent->{n}} p JOIN {$child->{n}} c ON " . join_condition($parent, $child) . $where;
}

sub outer_join
{
	my ($play) = @_;
	my ($parent, $child) = parent_and_child($play) or return;
	my $side = one_of('LEFT', 'RIGHT', 'FULL');
	return "SELECT concat_ws('/', p.val, 'and', c.val) FROM {$parent->{n}} p $side JOIN {$child->{n}} c ON " . join_condition($parent, $child);
}

sub exists
{
	my ($play) = @_;
	my ($parent, $child) = parent_and_child($play) or return;
	my $not = one_of('', 'NOT ');
	my $and = chance(50) ? ' AND ' . predicate($play, $child, 'c') : '';
	return "SELECT p.val FROM {$parent->{n}} p WHERE ${not}EXISTS (SELECT FROM {$child->{n}} c WHERE " . join_condition($parent, $child) . "$and)";
}

sub in_parents
{
	my ($play) = @_;
	my ($parent, $child) = parent_and_child($play) or return;
	my $columns = join ', ', columns('c', $child->{parent_columns});
	return "SELECT c.val FROM {$child->{n}} c WHERE ($columns) " . one_of('', 'NOT ')
	  . 'IN (SELECT ' . join(', ', columns('p', $parent->{key})) . " FROM {$parent->{n}} p WHERE " . predicate($play, $parent, 'p') . ')';
}

sub correlated
{
	my ($play) = @_;
	my ($parent, $child) = parent_and_child($play) or return;
	my $what = one_of('count(*)', 'sum(c.amount)', 'max(c.val)', 'max(c.' . quote_name($child->{version}) . ')');
	return "SELECT concat_ws('|', p.val, (SELECT $what FROM {$child->{n}} c WHERE " . join_condition($parent, $child) . ")) FROM {$parent->{n}} p";
}

# Totals over merged children, per parent.
sub aggregate
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my $by = defined $entity->{parent} ? join(', ', columns('e', $entity->{parent_columns})) : "split_part(e.val, '.', 1)";
	my $version = quote_name($entity->{version});
	return "SELECT concat_ws('|', count(*), sum(e.amount), min(e.val), max(e.$version), count(DISTINCT e.$version)) FROM {$entity->{n}} e"
	  . (chance(70) ? " GROUP BY $by" : '') . (chance(20) ? ' HAVING count(*) > 1' : '');
}

sub rollup
{
	my ($play) = @_;
	my $entity = some_entity($play);
	return "SELECT concat_ws('|', e.amount > 500, count(*), sum(e.amount), max(e.val)) FROM {$entity->{n}} e GROUP BY ROLLUP ((e.amount > 500))";
}

sub top
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my $version = quote_name($entity->{version});
	my $order = one_of("e.$version DESC, e.val", "e.$version, e.val", 'e.amount DESC NULLS LAST, e.val', 'e.val DESC', (columns('e', $entity->{key}))[0] . ', e.val');
	my $where = chance(40) ? ' WHERE ' . predicate($play, $entity, 'e') : '';
	return "SELECT row_number() OVER () || ' ' || val FROM (SELECT e.val FROM {$entity->{n}} e$where ORDER BY $order LIMIT "
	  . (1 + int rand 30) . ' OFFSET ' . one_of(0, 0, 5, 100) . ') x';
}

sub self_join
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my $version = quote_name($entity->{version});
	my $on = chance(60) ? equal([ columns('a', $entity->{key}) ], [ columns('b', $entity->{key}) ]) : "a.$version = b.$version AND a.val < b.val";
	return "SELECT a.val || '/' || b.val FROM {$entity->{n}} a JOIN {$entity->{n}} b ON $on WHERE " . predicate($play, $entity, one_of('a', 'b'));
}

sub window
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my $by = defined $entity->{parent} ? join(', ', columns('e', $entity->{parent_columns})) : "split_part(e.val, '.', 1)";
	my $version = quote_name($entity->{version});
	return "SELECT e.val || ' ' || row_number() OVER w || ' ' || coalesce(lag(e.val) OVER w, '') FROM {$entity->{n}} e WINDOW w AS (PARTITION BY $by ORDER BY e.$version DESC, e.val)";
}

sub extremes
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my $version = quote_name($entity->{version});
	return "SELECT concat_ws('|', min(e.$version), max(e.$version), (SELECT max(i.$version) FROM {$entity->{n}} i WHERE "
	  . predicate($play, $entity, 'i') . ")) FROM {$entity->{n}} e";
}

sub distinct
{
	my ($play) = @_;
	my $entity = some_entity($play);
	my $version = quote_name($entity->{version});
	return "SELECT val FROM (SELECT DISTINCT ON (split_part(e.val, '.', 1)) e.val FROM {$entity->{n}} e ORDER BY split_part(e.val, '.', 1), e.$version DESC, e.val) x";
}

sub union
{
	my ($play) = @_;
	my ($a, $b) = map { some_entity($play) } 1, 2;
	my $op = one_of('UNION ALL', 'UNION', 'EXCEPT', 'INTERSECT');
	return "SELECT val FROM (SELECT a.val FROM {$a->{n}} a WHERE " . predicate($play, $a, 'a') . " $op SELECT b.val FROM {$b->{n}} b) x";
}

sub cte
{
	my ($play) = @_;
	my $entity = some_entity($play);
	return "SELECT x.val || y.val FROM (WITH m AS " . one_of('', 'MATERIALIZED ', 'NOT MATERIALIZED ')
	  . "(SELECT e.val, e.amount FROM {$entity->{n}} e) SELECT a.val, b.n FROM m a, (SELECT count(*) AS n FROM m WHERE amount > 500) b) x(val, n),"
	  . " LATERAL (SELECT ' of ' || x.n) y(val)";
}

sub lateral_top
{
	my ($play) = @_;
	my ($parent, $child) = parent_and_child($play) or return;
	my $version = quote_name($child->{version});
	return "SELECT p.val || '>' || t.val FROM {$parent->{n}} p, LATERAL (SELECT c.val FROM {$child->{n}} c WHERE " . join_condition($parent, $child)
	  . " ORDER BY c.$version DESC, c.val LIMIT 2) t WHERE " . predicate($play, $parent, 'p');
}

1;
