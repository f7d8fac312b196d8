# Mutants of the rules of merging: the test of the test.
#
# Each is the portable SQL of a view of truth with one rule broken. It is asked for the
# same rows as the view itself; a mutant whose answer never differs from the reference
# has shown that the histories do not try that rule.
package Property::Mutants;

use strict;
use warnings;

use Property::Types qw(quote_name);
use Property::Check;

# The order of versions in the SQL: (version, source, partition, offset, arrival, ctid),
# once for n, which may be newer, and once for v, the version that is asked about.
sub order
{
	my ($sql, $change) = @_;
	return $sql =~ s/\(([nv])\.("?\w+"?), [nv]\.gc_source, [nv]\.gc_partition, [nv]\.gc_offset, [nv]\.gc_arrived_at, [nv]\.ctid\)/
		'(' . join(', ', $change->($1, $2)) . ')'/ger;
}

# One more condition on what beats a version.
sub beaten_only_by
{
	my ($sql, $condition) = @_;
	return $sql =~ s/\n    WHERE /\n    WHERE $condition AND /r;
}

# The rules by their number in the design, and how each is broken: a function of
# the SQL and the entity. What it leaves as it is does not apply to that entity.
our @mutants = (
	[ 1, 'the oldest version wins', sub { $_[0] =~ s/\n        > \(v/\n        < (v/r } ],
	[ 1, 'the latest arrival wins', sub { order($_[0], sub { map { "$_[0].$_" } 'gc_arrived_at', $_[1], qw(gc_source gc_partition gc_offset ctid) }) } ],
	[ 2, 'equal versions all show', sub { order($_[0], sub { "$_[0].$_[1]" }) } ],
	[ 2, 'the source is not looked at', sub { order($_[0], sub { map { "$_[0].$_" } $_[1], qw(gc_partition gc_offset gc_arrived_at ctid) }) } ],
	[ 2, 'the lower source wins', sub { order($_[0], sub { ("$_[0].$_[1]", "-$_[0].gc_source", map { "$_[0].$_" } qw(gc_partition gc_offset gc_arrived_at ctid)) }) } ],
	[ 2, 'batch beats speed at equal version', sub { order($_[0], sub { ("$_[0].$_[1]", "nullif($_[0].gc_source, -1) IS NULL", map { "$_[0].$_" } qw(gc_source gc_partition gc_offset gc_arrived_at ctid)) }) } ],
	[ 2, 'the partition is not looked at', sub { order($_[0], sub { map { "$_[0].$_" } $_[1], qw(gc_source gc_offset gc_arrived_at ctid) }) } ],
	[ 2, 'the lower partition wins', sub { order($_[0], sub { ("$_[0].$_[1]", "$_[0].gc_source", "-$_[0].gc_partition", map { "$_[0].$_" } qw(gc_offset gc_arrived_at ctid)) }) } ],
	[ 2, 'the lower offset wins', sub { order($_[0], sub { ("$_[0].$_[1]", (map { "$_[0].$_" } qw(gc_source gc_partition)), "-$_[0].gc_offset", map { "$_[0].$_" } qw(gc_arrived_at ctid)) }) } ],
	[ 2, 'the offset is not looked at', sub { order($_[0], sub { map { "$_[0].$_" } $_[1], qw(gc_source gc_partition gc_arrived_at ctid) }) } ],
	[ 2, 'a record read twice at other times shows twice', sub { order($_[0], sub { map { "$_[0].$_" } $_[1], qw(gc_source gc_partition gc_offset) }) } ],
	[ 2, 'a record written twice shows twice', sub { order($_[0], sub { map { "$_[0].$_" } $_[1], qw(gc_source gc_partition gc_offset gc_arrived_at) }) } ],
	[ 3, 'tombstones are not looked at', sub { beaten_only_by($_[0], 'NOT n.gc_deleted') } ],
	[ 3, 'tombstones show', sub { $_[0] =~ s/AND NOT v\.gc_deleted//r } ],
	[ 3, 'a tombstone beats everything', sub { $_[0] =~ s/AND (\(n\.\S+, n\.gc_source.*?\)\s+> \(v\..*?\))\)/AND (n.gc_deleted OR $1))/sr } ],
	[ 3, 'tombstones in datasets are not looked at', sub { beaten_only_by($_[0], 'NOT (n.gc_deleted AND n.gc_dataset <> 0)') } ],
	[ 4, 'the parent is part of the key', sub { my ($sql, $entity) = @_; $entity->{one_to_one} || !$entity->{parent_columns} ? $sql :
		beaten_only_by($sql, join ' AND ', map { my $c = quote_name($_); "n.$c IS NOT DISTINCT FROM v.$c" } @{ $entity->{parent_columns} }) } ],
	[ 5, 'the window goes by version', sub { my ($sql, $entity) = @_; my $v = quote_name($entity->{version}); $sql =~ s/([nv])\.gc_arrived_at >= w/$1.$v >= w/gr } ],
	[ 5, 'the window begins a microsecond late', sub { $_[0] =~ s/gc_arrived_at >= w/gc_arrived_at > w/gr } ],
	[ 5, 'the window begins a microsecond early', sub { $_[0] =~ s/gc_arrived_at >= w\.window_start/gc_arrived_at >= w.window_start - interval '1 microsecond'/gr } ],
	[ 5, 'there is no window', sub { $_[0] =~ s/([nv])\.gc_arrived_at >= w\.window_start/true/gr } ],
	[ 5, 'records from before the window still beat others', sub { $_[0] =~ s/n\.gc_arrived_at >= w\.window_start/true/r } ],
	[ 5, 'a younger child has the window of the others', sub { my ($sql, $entity) = @_; !$entity->{born} ? $sql :
		$sql =~ s/w\.window_start/(SELECT max(x.window_start) FROM guest_context._window x)/gr } ],
	[ 6, 'batch and speed are added up', sub { beaten_only_by($_[0], '(n.gc_dataset = 0) = (v.gc_dataset = 0)') } ],
	[ 7, 'all datasets are read', sub { $_[0] =~ s/([nv])\.gc_dataset = w\.dataset_id/true/gr } ],
	[ 7, 'no dataset is read', sub { $_[0] =~ s/([nv])\.gc_dataset = w\.dataset_id/false/gr } ],
	[ 7, 'the newest dataset is read, not the active one', sub { $_[0] =~ s/([nv])\.gc_dataset = w\.dataset_id/$1.gc_dataset = (SELECT max(d.dataset) FROM guest_context.dataset d WHERE d.state <> 'dropped')/gr } ],
	[ 7, 'the window of another dataset', sub { $_[0] =~ s/w\.window_start/coalesce((SELECT min(d.window_start) FROM guest_context.dataset d WHERE d.state <> 'active'), w.window_start)/gr } ],
	[ 8, 'the place in the table decides', sub { order($_[0], sub { map { "$_[0].$_" } $_[1], qw(ctid gc_source gc_partition gc_offset gc_arrived_at) }) } ],
	[ 9, 'tombstones in built datasets are not looked at', sub { beaten_only_by($_[0], 'NOT (n.gc_deleted AND n.gc_dataset <> 0 AND n.gc_source >= 0)') } ],
	[ 0, 'nothing expires', sub { $_[0] =~ s/\n  AND v\.\S+ >= pg_catalog\.now\(\).*//r } ],
	[ 0, 'it expires a microsecond early', sub { $_[0] =~ s/(\n  AND v\.\S+) >= pg_catalog\.now\(\)/$1 > pg_catalog.now()/r } ],
	[ 0, 'keys are compared by their bytes', sub { my ($sql, $entity) = @_; !Property::Types::key_has_spellings(@{ $entity->{key_types} }) ? $sql :
		keys_equal($sql, join ' AND ', map { my $c = quote_name($_); "n.$c\::text COLLATE \"C\" = v.$c\::text COLLATE \"C\"" } @{ $entity->{key} }) } ],
	[ 0, 'the first column of the key is not looked at', sub { my ($sql, $entity) = @_; my @key = @{ $entity->{key} }; shift @key; !@key ? $sql :
		keys_equal($sql, join ' AND ', map { "n.$_ = v.$_" } @key) } ],
	[ 0, 'the last column of the key is not looked at', sub { my ($sql, $entity) = @_; my @key = @{ $entity->{key} }; pop @key; !@key ? $sql :
		keys_equal($sql, join ' AND ', map { "n.$_ = v.$_" } @key) } ],
);

# Another comparison of keys.
sub keys_equal
{
	my ($sql, $condition) = @_;
	return $sql =~ s/\n    WHERE .*? AND \(n\.gc_dataset = 0/\n    WHERE $condition AND (n.gc_dataset = 0/sr;
}

sub new { return bless { caught => {}, tried => {} }, shift }

# Asks the mutants that are still alive, each for all of every entity.
sub try
{
	my ($self, $play, $portable, $at, @wanted) = @_;
	my @entities = $play->entities;
	my ($sql, @asked) = ('');

	for my $mutant (grep { !$self->{caught}{ $_->[1] } } @mutants)
	{
		for my $i (0 .. $#entities)
		{
			my $right = $portable->{ $entities[$i]{n} };
			my $wrong = $mutant->[2]->($right, $entities[$i]);
			next if $wrong eq $right;
			$sql .= Property::Check::digest('SELECT e::text FROM (' . $wrong =~ s/pg_catalog\.now\(\)/$at/gr . ') e') . ";\n";
			push @asked, [ $mutant->[1], $wanted[$i] ];
		}
	}
	return unless @asked;
	my @lines = split /\n/, $play->{owner}->run($sql);
	die "mutants were asked " . @asked . " questions and gave " . @lines . " answers\n" if @lines != @asked;
	for my $i (0 .. $#asked)
	{
		my ($name, $wanted) = @{ $asked[$i] };
		$self->{tried}{$name} = 1;
		$self->{caught}{$name} = 1 if $lines[$i] ne $wanted;
	}
	return;
}

1;
