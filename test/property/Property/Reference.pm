# The rules of merging in plain Perl: what every view of truth must show.
#
# It knows records and datasets as the tests made them and nothing of the tables:
# keys are the numbers (history, key), not their texts.
package Property::Reference;

use strict;
use warnings;

use Encode qw(encode_utf8);

use constant INFINITY => 9_223_372_036_854_775_807;

sub new
{
	my ($class, $story) = @_;
	return bless { story => $story, records => [], datasets => {}, active => 0, clock => 0 }, $class;
}

# The order of versions: < 0, 0, > 0. What is equal in all of it is one record.
sub compare
{
	my ($a, $b) = @_;
	return $a->{version} <=> $b->{version}
	  || $a->{source} <=> $b->{source}
	  || $a->{partition} <=> $b->{partition}
	  || $a->{offset} <=> $b->{offset}
	  || $a->{arrival} <=> $b->{arrival};
}

sub add_record
{
	my ($self, $record) = @_;
	push @{ $self->{records}[ $record->{entity}{n} ]{"$record->{h}.$record->{k}"} }, $record;
	return;
}

# What an operator takes out is nowhere, and does not come back.
sub purge
{
	my ($self, $entity, $version) = @_;
	my ($n, $key) = ($entity->{n}, "$version->{h}.$version->{k}");

	$self->{purged}{"$n.$key.$version->{version}"} = 1;
	$_ = [ grep { $_->{version} != $version->{version} } @$_ ] for grep { defined } $self->{records}[$n]{$key};
	for my $rows (map { $_->{rows}[$n] } values %{ $self->{datasets} })
	{
		delete $rows->{$key} if $rows->{$key} && $rows->{$key}{version} == $version->{version};
	}
	return;
}

sub is_purged { my ($self, $entity, $row) = @_; return $self->{purged}{"$entity->{n}.$row->{h}.$row->{k}.$row->{version}"} }

# Where the window of an entity begins, and the dataset's rows of it.
sub window
{
	my ($self, $entity) = @_;
	my $dataset = $self->{datasets}{ $self->{active} };
	return (-INFINITY(), {}) unless $dataset && $dataset->{spans}{ $entity->{n} };
	return ($dataset->{window_start}, $dataset->{rows}[ $entity->{n} ]);
}

# The winner of every key, tombstones among them.
sub winners
{
	my ($self, $entity) = @_;
	my ($start, $batch) = $self->window($entity);
	my %winner = %$batch;
	my $records = $self->{records}[ $entity->{n} ];

	for my $key (keys %$records)
	{
		for my $record (@{ $records->{$key} })
		{
			next if $record->{arrival} < $start;
			$winner{$key} = $record if !$winner{$key} || compare($record, $winner{$key}) > 0;
		}
	}
	return \%winner;
}

# The records that the view shows at a time.
sub truth
{
	my ($self, $entity, $now) = @_;
	my $expire = $entity->{expire_after};

	return grep { !$_->{deleted} && (!defined $expire || $_->{version} >= $now - $expire) } values %{ $self->winners($entity) };
}

# --- datasets -----------------------------------------------------------------------

# sealed: the newest row of each key, of equal ones the greater bytes; and the truth's tombstones that its
# window will not have, as far back as retention reaches, for keys without a row that lives
sub seal_external
{
	my ($self, $id, $event, @entities) = @_;
	my %dataset = (
		id => $id, as_of => $event->{as_of}, state => 'sealed',
		window_start => $self->{story}->window_start($event->{as_of}),
		spans => { map { $_->{n} => 1 } @entities }, rows => []);

	for my $entity (@entities)
	{
		my %newest;
		my @loaded = grep { !$self->is_purged($entity, $_) } @{ $event->{rows}[ $entity->{n} ] || [] };
		for my $row (@loaded)
		{
			my $newest = \$newest{"$row->{h}.$row->{k}"};
			my $order = $$newest ? $row->{version} <=> $$newest->{version} || bytes($row) cmp bytes($$newest) : 1;
			$$newest = { %$row, source => -1, partition => 0, offset => 0, arrival => INFINITY } if $order > 0;
		}
		my %alive = map { ("$_->{h}.$_->{k}" => 1) } grep { !$_->{deleted} } @loaded;
		my $winners = $self->winners($entity);
		for my $key (keys %$winners)
		{
			my $row = $winners->{$key};
			next if !$row->{deleted} || $alive{$key} || $row->{version} < $event->{as_of} - $self->{story}{retention};
			next if $row->{arrival} != INFINITY && $row->{arrival} >= $dataset{window_start};
			next if $newest{$key} && $newest{$key}{version} >= $row->{version};
			$newest{$key} = { %$row, source => -1, partition => 0, offset => 0, arrival => INFINITY };
			$self->{story}->note('tombstone taken over', $row->{h});
		}
		$dataset{rows}[ $entity->{n} ] = \%newest;
	}
	$self->{datasets}{$id} = \%dataset;
	return \%dataset;
}

sub bytes { my ($row) = @_; return encode_utf8($row->{val} // '') }

# built: the truth of this moment, tombstones as far back as retention reaches
sub seal_built
{
	my ($self, $id, $as_of, @entities) = @_;
	my %dataset = (
		id => $id, as_of => $as_of, state => 'sealed', window_start => $self->{story}->window_start($as_of),
		spans => { map { $_->{n} => 1 } @entities }, rows => []);

	for my $entity (@entities)
	{
		my $winners = $self->winners($entity);
		for my $key (keys %$winners)
		{
			my $row = $winners->{$key};
			next if $row->{deleted} && $row->{version} < $as_of - $self->{story}{retention};
			$dataset{rows}[ $entity->{n} ]{$key} = { %$row, arrival => INFINITY };
		}
		$dataset{rows}[ $entity->{n} ] ||= {};
	}
	$self->{datasets}{$id} = \%dataset;
	return \%dataset;
}

sub live_rows { my ($dataset, $entity) = @_; return scalar grep { !$_->{deleted} } values %{ $dataset->{rows}[ $entity->{n} ] } }

# What was active before retires; of the retired ones the newest two are kept.
sub activate
{
	my ($self, $id, $rollback) = @_;
	my $before = $self->{active};

	if ($before)
	{
		@{ $self->{datasets}{$before} }{qw(state retired)} = ('retired', ++$self->{clock});
	}
	$self->{datasets}{$id}{state} = 'active';
	$self->{active} = $id;
	unless ($rollback)
	{
		my @retired = sort { $b->{retired} <=> $a->{retired} } $self->in_state('retired');
		$_->{state} = 'dropped' for splice @retired, 2 < @retired ? 2 : @retired;
	}
	return $before;
}

sub in_state { my ($self, $state) = @_; return grep { $_->{state} eq $state } values %{ $self->{datasets} } }

# The dataset to which a rollback goes, or 0.
sub earlier
{
	my ($self) = @_;
	my $active = $self->{datasets}{ $self->{active} } or return 0;
	my @older = sort { $b->{as_of} <=> $a->{as_of} || $b->{id} <=> $a->{id} }
	  grep { ($_->{as_of} <=> $active->{as_of} || $_->{id} <=> $active->{id}) < 0 } $self->in_state('retired');
	return @older ? $older[0]{id} : 0;
}

1;
