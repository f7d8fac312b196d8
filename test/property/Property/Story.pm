# A random schema and what happens to it: entities, records, datasets.
#
# Everything is drawn from the seed before anything is run. Times are counted in
# microseconds; `base` is midnight of the day on which the run began, the records
# placed by hand have arrived before it, and what goes through apply() after it.
package Property::Story;

use strict;
use warnings;
use utf8;

use Property::Types qw(@key_kinds value_types key_texts value_text one_of chance);

use constant HOUR => 3_600_000_000;
use constant DAY => 24 * HOUR;

# How far before base the oldest partition begins, and the oldest versions lie.
use constant OLDEST_ARRIVAL => 6 * DAY;
use constant OLDEST_VERSION => 4 * DAY;

# Plans that must occur, see Check.
our @plans = ('the whole', 'the whole in parallel', 'the whole in parallel, without the leader', 'the whole in parallel, without a map',
	'the whole, without a map', 'Append and _is_current', 'Append and _is_newest', 'by key', 'by key, joined');

# What must occur: in this many percent of the histories at least, see run.
our @features = (
	(map { 'key ' . join '+', @$_ } @key_kinds), 'activation', 'activation of an old dataset', 'all versions equal', 'apply',
	'batch and speed equal', 'built dataset', 'child younger than a dataset', 'composite key', 'dataset row from the future',
	'dataset row in its window', 'default', 'delete', 'delete and insert at one time', 'expires at this moment', 'expiry',
	'external dataset', 'key twice in a dataset', 'late record', 'no parent', 'null', 'object child', 'other parent',
	'permuted and repeated', 'read twice', 'read twice at other times', 'read with an old snapshot', 'rollback', 'second activation',
	'key filter', 'partition with its columns elsewhere', 'record that comes after its key filter', 'records written and undone', 'partitions dropped', 'purged version', 'tie', 'tie in a dataset', 'tombstone in a dataset', 'tombstone taken over', 'tombstone with values', 'two levels of children', 'window with more rows than planned',
	'arrival at the start of a window', 'arrival just before a window', 'arrival just after a window begins', 'arrival where a partition begins',
	map { "plan: $_" } @plans);

# new(seed, number of the schema, histories, records in each, base)
sub new
{
	my ($class, %arg) = @_;
	my $self = bless { %arg, schema => "p$arg{number}", seen => {} }, $class;
	srand($arg{seed} * 1_000_003 + $arg{number});
	$self->{twins} = int($self->{histories} / 5);
	$self->{filters} = chance(60);
	$self->make_entities;
	$self->make_events;
	$self->make_cuts;
	$self->make_history($_) for 0 .. $self->{histories} - 1;
	return $self;
}

# Notes that a history has a feature, for the count at the end.
sub note { my ($self, $feature, $h) = @_; $self->{seen}{$feature}{$h} = 1; return }
sub note_all { my ($self, $feature) = @_; $self->note($feature, $_) for 0 .. $self->{histories} - 1; return }

# --- entities ---------------------------------------------------------------------

sub make_entities
{
	my ($self) = @_;
	my $count = one_of(1, 2, 2, 2, 3, 3);

	# one entity with many keys, so that the map of a window outgrows the least memory
	if ($self->{number} % 6 == 2) { ($count, $self->{wide}) = (1, 1) }

	$self->{overlap} = one_of(0, HOUR, 12 * HOUR, DAY);
	$self->{retention} = one_of(HOUR, 2 * DAY, 7 * DAY);
	for my $n (0 .. $count - 1)
	{
		# every kind of key comes round in turn
		my $kind = ($self->{number} + $self->{seed} + $n * 7) % @key_kinds;
		my %entity = (
			n => $n, born => 0, name => ('root', 'child', chance(10) ? 'Grand "child"' : 'grandchild')[$n],
			key_types => $key_kinds[$kind], parent => $n == 0 ? undef : int rand $n,
			version => one_of('modified_at', 'modified_at', 'Changed'),
			partition_interval => one_of(HOUR, 6 * HOUR, DAY, DAY),
			expire_after => chance(30) ? one_of(DAY, 2 * DAY) : undef);
		my @columns;

		if (defined $entity{parent})
		{
			my $types = $self->{entities}[ $entity{parent} ]{key_types};
			$entity{one_to_one} = chance(15);
			$entity{key_types} = $types if $entity{one_to_one};
			$entity{parent_columns} = [ map { "parent$_" } 0 .. $#$types ];
			push @columns, map { { name => "parent$_", type => $types->[$_], role => 'parent' } } 0 .. $#$types
			  unless $entity{one_to_one};
		}
		my $types = $entity{key_types};
		$entity{key} = [ @$types == 1 ? 'ref' : map { "key$_" } 0 .. $#$types ];
		$entity{parent_columns} = $entity{key} if $entity{one_to_one};
		push @columns, map { { name => $entity{key}[$_], type => $types->[$_], role => 'key' } } 0 .. $#$types;
		push @columns, { name => $entity{version}, type => 'timestamptz', role => 'version' };
		push @columns, { name => 'val', type => 'text', role => 'val' };
		push @columns, { name => 'amount', type => 'numeric', role => 'value' };
		push @columns, { name => 'long', type => 'long', role => 'value' } if chance(15);
		for my $i (1 .. rand 5)
		{
			my $type = one_of(value_types());
			my %column = (name => $i == 2 ? "Group $i" : "v$i", type => $type, role => 'value');
			$column{default} = value_text($type) if chance(30);
			push @columns, \%column;
		}
		$entity{columns} = [ sort { $a->{order} <=> $b->{order} } map { { %$_, order => rand } } @columns ];
		$entity{is_table} = chance(50);    # the shape: a table has DEFAULT, NOT NULL and CHECK
		unless ($entity{is_table}) { delete $_->{default} for @{ $entity{columns} } }
		push @{ $self->{entities} }, \%entity;

		$self->note_all('key ' . join '+', @$types);
		$self->note_all('composite key') if @$types > 1;
		$self->note_all('expiry') if $entity{expire_after};
		$self->note_all('object child') if $entity{one_to_one};
		$self->note_all('two levels of children') if $entity{parent};
	}
	return;
}

# --- events --------------------------------------------------------------------------

sub make_events
{
	my ($self) = @_;
	my $count = $self->{number} % 3 == 0 || $self->{number} % 4 == 1 ? one_of(3, 3, 4) : one_of(1, 2, 2, 3, 4);
	# back by two snapshots, to the newer one first
	my $back = $self->{number} % 12 == 6;
	$count = 5 if $back;
	my @kinds = map { one_of(qw(external external built), $_ > 2 ? qw(rollback rollback again again) : ()) } 1 .. $count;
	my @as_of = map { $self->{base} - HOUR - int(rand 70) * HOUR - (chance(50) ? 0 : int rand HOUR) } @kinds;

	# going back to an older snapshot is the exception
	@as_of = sort { $a <=> $b } @as_of if $back || chance(80);
	$kinds[0] = chance(70) ? 'external' : 'built';
	$kinds[1] = 'built' if $count > 1 && chance(25);
	# what chance would leave rare in a few schemas
	$kinds[$#kinds] = 'rollback' if $count > 2 && $self->{number} % 3 == 0;
	$kinds[2] = 'again' if $kinds[2] && $self->{number} % 4 == 1;
	@kinds = qw(external external external rollback rollback) if $back;
	$self->{events} = [ map { { kind => $kinds[$_], as_of => $as_of[$_], unused => chance($back ? 0 : 15) } } 0 .. $#kinds ];

	# a child that is created when there is a dataset already
	my $last = $self->{entities}[-1];
	$last->{born} = defined $last->{parent} && $count > 1 && chance(25) ? 1 : 0;
	$self->note_all('child younger than a dataset') if $last->{born};
	return;
}

sub window_start { my ($self, $as_of) = @_; return $as_of - $self->{overlap} }

# Where partitions of the past begin, and the times at which arrival is of interest.
sub make_cuts
{
	my ($self) = @_;
	my $first = $self->{base} - OLDEST_ARRIVAL;
	my @edges = map { $self->window_start($_->{as_of}) } grep { $_->{kind} eq 'external' } @{ $self->{events} };

	for my $entity (@{ $self->{entities} })
	{
		my %cut = ($first => 1);
		$cut{ $first + int rand OLDEST_ARRIVAL } = 1 for 1 .. 1 + rand 4;
		$cut{$_} = 1 for grep { chance(30) } @edges;    # a window that begins where a leaf does
		$entity->{cuts} = [ sort { $a <=> $b } keys %cut ];
	}
	$self->{edges} = \@edges;
	return;
}

# --- records -----------------------------------------------------------------------------

sub make_history
{
	my ($self, $h) = @_;
	my $base = $self->{base};
	my %trait = (h => $h, next_offset => {});

	$trait{versions} =
	    chance(8) ? 'equal'
	  : chance(25) ? 'few'
	  : 'spread';
	$trait{pool} = [ map { $base - int(rand OLDEST_VERSION / 1000) * 1000 } 1 .. ($trait{versions} eq 'equal' ? 1 : 3) ];
	$self->note('all versions equal', $h) if $trait{versions} eq 'equal';
	$trait{keys} = [ map { $self->{wide} ? 13 + int rand 7 : 2 + int rand 8 } @{ $self->{entities} } ];

	my (@records, %dataset_rows);
	for my $i (1 .. $self->{records})
	{
		my $entity = one_of(@{ $self->{entities} });
		my $record = $self->make_record(\%trait, $entity, $i);

		$record->{phase} = $entity->{born} + int rand(@{ $self->{events} } + 1 - $entity->{born});
		if (chance(10) && $record->{version} <= $base && !$record->{odd})
		{
			$record->{apply} = 1;
			$self->note('apply', $h);
			$self->leave_out($record);
		}
		push @records, $record;
		if (@records > 1 && chance(7))
		{
			push @records, $self->again($records[ rand @records ]);
		}
	}
	push @{ $self->{inserts}[ $_->{phase} ] }, $_ for @records;
	$self->make_twin($h, @records) if $h < $self->{twins};

	for my $n (0 .. $#{ $self->{events} })
	{
		my $event = $self->{events}[$n];
		next unless $event->{kind} eq 'external';
		for my $entity (grep { $_->{born} == 0 || $n > 0 } @{ $self->{entities} })
		{
			my @rows = $self->make_snapshot(\%trait, $entity, $event, @records);
			push @{ $event->{rows}[ $entity->{n} ] }, @rows;
			next unless $h < $self->{twins};
			push @{ $event->{rows}[ $entity->{n} ] }, map { $self->twin_of($_) } @rows;
		}
	}
	return;
}

sub make_record
{
	my ($self, $trait, $entity, $i) = @_;
	my ($h, $base) = ($trait->{h}, $self->{base});
	my $k = int rand $trait->{keys}[ $entity->{n} ];
	my %record = (entity => $entity, h => $h, k => $k, key => [ key_texts($entity->{key_types}, $h, $k) ], val => "$h.$i");

	$record{version} = $self->make_version($trait);
	$record{deleted} = chance(18);
	$record{source} = one_of(0, 1, 1, 1, 2);
	# a key has its partition, unless partitions were added
	$record{partition} = chance(90) ? ($h + $k) % 4 : int rand 4;
	$record{offset} = 1_000_000_000 + ($trait->{next_offset}{"$record{source}.$record{partition}"} += 1 + int rand 3);
	$record{arrival} = $self->make_arrival($record{version}, $entity, $h);
	$self->fill(\%record, $trait);

	my $newest = \$trait->{newest}{"$entity->{n}.$k"};
	$self->note('late record', $h) if defined $$newest && $record{version} < $$newest;
	$self->note('tie', $h) if defined $$newest && $record{version} == $$newest;
	$self->note('delete and insert at one time', $h)
	  if defined $$newest && $record{version} == $$newest && $trait->{deleted}{"$entity->{n}.$k"} != $record{deleted};
	if (!defined $$newest || $record{version} >= $$newest)
	{
		$$newest = $record{version};
		$trait->{deleted}{"$entity->{n}.$k"} = $record{deleted};
	}
	$self->note('delete', $h) if $record{deleted};
	return \%record;
}

sub make_version
{
	my ($self, $trait) = @_;
	return one_of(@{ $trait->{pool} }) if $trait->{versions} ne 'spread' || chance(20);
	my $version = $self->{base} - int rand OLDEST_VERSION;
	$version += 2 * HOUR if chance(5);    # from a clock that is ahead, at most two hours past base
	push @{ $trait->{pool} }, $version;
	return $version;
}

sub make_arrival
{
	my ($self, $version, $entity, $h) = @_;
	my $base = $self->{base};
	my $arrival;

	if (chance(25) && @{ $self->{edges} })
	{
		my $beside = one_of(-1, 0, 0, 1);
		$arrival = one_of(@{ $self->{edges} }) + $beside;
		$self->note(('arrival at the start of a window', 'arrival just after a window begins', 'arrival just before a window')[$beside], $h);
	}
	elsif (chance(10))
	{
		$arrival = one_of(@{ $entity->{cuts} });
		$self->note('arrival where a partition begins', $h);
	}
	else { $arrival = chance(30) ? $version + int rand HOUR : $base - 1 - int rand OLDEST_ARRIVAL }

	return $arrival >= $base ? $base - 1
	  : $arrival < $base - OLDEST_ARRIVAL ? $base - OLDEST_ARRIVAL
	  : $arrival;
}

# The other columns. A tombstone has a key and nothing else, but one that a
# soft-delete flag made may carry values, which must not matter.
sub fill
{
	my ($self, $record, $trait) = @_;
	my ($entity, $h) = @$record{qw(entity h)};
	my %cell;

	if (defined $entity->{parent} && !$entity->{one_to_one})
	{
		my $parent = $self->{entities}[ $entity->{parent} ];
		my $k = chance(8) ? undef : int rand($trait->{keys}[ $parent->{n} ] + 1);
		my @texts = defined $k ? key_texts($parent->{key_types}, $h, $k) : map { undef } @{ $parent->{key_types} };
		@cell{ @{ $entity->{parent_columns} } } = @texts;

		my $before = \$trait->{parent}{"$entity->{n}.$record->{k}"};
		$self->note('no parent', $h) unless defined $k;
		$self->note('other parent', $h) if defined $$before && defined $k && $$before != $k;
		$$before = $k;
	}
	for my $column (grep { $_->{role} eq 'value' } @{ $entity->{columns} })
	{
		my $null = chance(15);
		$cell{ $column->{name} } = $null ? undef : value_text($column->{type});
		$self->note('null', $h) if $null;
	}
	if ($record->{deleted} && chance(75))
	{
		$cell{$_} = undef for keys %cell;
		$record->{val} = undef;
	}
	elsif ($record->{deleted})
	{
		$record->{odd} = 1;
		$self->note('tombstone with values', $h);
	}
	$record->{cell} = \%cell;
	return;
}

# What a payload may leave out: columns that have a DEFAULT, the version of a delete.
sub leave_out
{
	my ($self, $record) = @_;

	if ($record->{deleted})
	{
		$record->{no_version} = chance(30);
		return;
	}
	for my $column (grep { exists $_->{default} && chance(50) } @{ $record->{entity}{columns} })
	{
		$record->{left_out}{ $column->{name} } = 1;
		$record->{cell}{ $column->{name} } = $column->{default};
		$self->note('default', $record->{h});
	}
	return;
}

# A record that is read twice: the same place, and the same or another arrival.
sub again
{
	my ($self, $record) = @_;
	my %copy = (%$record, again => 1);

	delete $copy{apply};
	$copy{again_of} = $record if $record->{apply};
	$copy{phase} += int rand(@{ $self->{events} } + 1 - $copy{phase});
	if (chance(50) && !$record->{apply})
	{
		$copy{arrival} = $self->make_arrival(@copy{qw(version entity h)});
		$self->note('read twice at other times', $record->{h});
	}
	else { $self->note('read twice', $record->{h}) }
	return \%copy;
}

# --- snapshots ------------------------------------------------------------------------------

# Rows of one history and entity in an external dataset.
sub make_snapshot
{
	my ($self, $trait, $entity, $event, @records) = @_;
	my $h = $trait->{h};
	my @rows;

	for my $k (0 .. $trait->{keys}[ $entity->{n} ] - 1)
	{
		next if chance(30);
		my @same = grep { $_->{entity} == $entity && $_->{k} == $k } @records;
		my %of_version;
		for my $i (1 .. one_of(1, 1, 1, 2, 3))
		{
			my %row = (entity => $entity, h => $h, k => $k, key => [ key_texts($entity->{key_types}, $h, $k) ],
				val => "$h.$k" . 'd' . $event->{as_of} % 1_000_000_007 . "n$i",
				version => @same && chance(40) ? one_of(@same)->{version} : $self->make_version($trait),
				deleted => chance(15));

			$self->note('key twice in a dataset', $h) if $i > 1;
			$self->note('batch and speed equal', $h) if grep { $_->{version} == $row{version} } @same;
			if (my $equal = $of_version{ $row{version} })
			{
				# rows that differ in nothing but their text: the greater bytes stay
				push @rows, { %$equal, val => defined $equal->{val} ? $equal->{val} . one_of(' ', 'z', 'é') : 'was null' };
				$self->note('tie in a dataset', $h);
				next;
			}
			$of_version{ $row{version} } = \%row;
			$self->fill(\%row, $trait);
			$self->note('tombstone in a dataset', $h) if $row{deleted};
			$self->note('dataset row in its window', $h) if $row{version} >= $self->window_start($event->{as_of});
			$self->note('dataset row from the future', $h) if $row{version} > $event->{as_of};
			push @rows, \%row;
		}
	}
	$self->note('external dataset', $h) if @rows;
	return @rows;
}

# --- twins: the same records in another order, split and repeated otherwise -------------------

sub twin_of
{
	my ($self, $record) = @_;
	my ($entity, $h) = ($record->{entity}, $record->{h} + $self->{histories});
	my %twin = (%$record, h => $h, twin_of => $record, cell => { %{ $record->{cell} } });

	# keys that were written alike are so here
	$twin{key} = $self->{twin_key}{ join "\0", $entity->{n}, $h, @{ $record->{key} } } //=
	  [ key_texts($entity->{key_types}, $h, $record->{k}) ];
	$twin{val} = "t$twin{val}" if defined $twin{val};
	$twin{again_of} = $record if $record->{apply};
	delete $twin{apply};
	# parents are named by their own history, and nothing looks at those of twins
	if (defined $entity->{parent} && !$entity->{one_to_one})
	{
		$twin{cell}{$_} = undef for @{ $entity->{parent_columns} };
	}
	return \%twin;
}

sub make_twin
{
	my ($self, $h, @records) = @_;
	my @twins = map { $self->twin_of($_) } @records;

	push @twins, map { { %$_, again => 1 } } grep { chance(30) } @twins;
	@twins = map { $_->[1] } sort { $a->[0] <=> $b->[0] } map { [ rand, $_ ] } @twins;
	push @{ $self->{inserts}[ $_->{phase} ] }, $_ for @twins;
	$self->note('permuted and repeated', $h);
	return;
}

1;
